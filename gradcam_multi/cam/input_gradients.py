"""Methods of the gradient with respect to the input: one attribution for each of its values.

Each is a function of a `Probe`. It leaves the attribution, (N, channels, *size), signed and in the
unit of a score or of a score a unit of input, at the probe, and returns the map (N, *size) that is
shown of it.
"""

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam.gradients import gradcam, weighted
from gradcam_multi.cam.perturbations import noisy_images
from gradcam_multi.cam.probe import Probe
from gradcam_multi.resize import resize
from gradcam_multi.spec import Array

SMOOTHGRAD_SAMPLES = 50  # Smilkov 2017, section 3.2: little is gained beyond 50
PATH_STEPS = 50  # Captum's; Sundararajan 2017, section 5: 20 to 300


def saliency(probe: Probe) -> Array:
    """Show the largest magnitude of the gradient over channels (Simonyan 2013, section 3.1)."""
    return _largest(_left(probe, probe.image_gradients()))


def smoothgrad(probe: Probe) -> Array:
    """Average the signed gradients of noisy inputs, then do as `saliency` (Smilkov 2017).

    The noise is normal, its deviation 15 per cent of each item's range of values.
    """
    samples = probe.samples or SMOOTHGRAD_SAMPLES
    make = noisy_images(probe.image, probe.seed)
    return _largest(_left(probe, probe.image_gradients(samples, make)))


def integrated_gradients(probe: Probe) -> Array:
    """Share S(x) - S(b) among the values of the input x (Sundararajan 2017, equation 1).

    (x - b) times the mean gradient on the straight line from the baseline b to x, taken in the
    middle of equal steps. A pixel's share is the sum over its channels.
    """
    image, baseline = probe.image, probe.baseline
    steps = probe.samples or PATH_STEPS
    way = image - baseline

    def make(numbers: range) -> Array:
        # The midpoint rule never asks for the baseline itself, where ReLU has its kinks at once.
        return np.stack([baseline + way * np.float32((n + 0.5) / steps) for n in numbers])

    shares = _left(probe, probe.image_gradients(steps, make) * way)
    summed: Array = shares.sum(1, dtype=np.float64)
    return summed


def guided_backprop(probe: Probe) -> Array:
    """Do as `saliency`, with negative gradients stopped at each ReLU (Springenberg 2015)."""
    return _largest(_left(probe, probe.image_gradients(relu="guided")))


def guided_gradcam(probe: Probe) -> Array:
    """Multiply guided backpropagation by Grad-CAM, resized to the input (Selvaraju 2017, 3.2).

    Grad-CAM is divided by its maximum before, so that the attribution keeps the gradient's unit.
    """
    activations = probe.activations
    flat = activations.reshape(*activations.shape[:2], -1)
    cam = weighted(gradcam(flat, probe.gradients().reshape(flat.shape)), flat)
    against = cam.max(-1, keepdims=True) <= 0
    cam = np.where(against, cam, np.maximum(cam, 0))
    scale = np.abs(cam).max(-1, keepdims=True)
    cam = np.divide(cam, scale, out=cam, where=scale != 0)
    image = probe.image_gradients(relu="guided")
    mask = resize(cam.reshape(len(cam), *activations.shape[2:]), image.shape[2:])
    _left(probe, image * np.maximum(mask, 0)[:, None])
    # A map of evidence against the target alone goes on as it is: its sign tells the status.
    each = against.reshape(-1, *(1,) * (mask.ndim - 1))
    return np.where(each, mask, mask * _largest(image))


def _left(probe: Probe, attribution: NDArray[np.floating]) -> Array:
    """Leave an attribution at the probe, and return it."""
    probe.attribution = attribution.astype(np.float32, copy=False)
    return probe.attribution


def _largest(attribution: Array) -> Array:
    """The largest magnitude over channels, (N, channels, *size) -> (N, *size)."""
    largest: Array = np.abs(attribution).max(1)
    return largest
