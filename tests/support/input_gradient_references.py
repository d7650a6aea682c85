"""Every method of the gradient with respect to the input, as its paper writes it: slowly.

In float64, one item at a time, value by value; nothing is shared with the package but the constants
and the order in which random numbers are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cam_references import cells, slow_resize, weighted_sum


@dataclass
class Differentiated:
    """One item, and the derivative of its score with respect to an image, plain or guided."""

    image: np.ndarray
    gradient: Callable  # (image, relu) -> (channels, *size)
    a: np.ndarray  # the layer's activation and gradient, (C, *grid)
    g: np.ndarray
    baseline: np.ndarray | float = 0.0
    seed: int = 0
    samples: int | None = None


def largest(attribution):
    out = np.zeros(attribution.shape[1:])
    for p in cells(out.shape):
        out[p] = max(abs(channel[p]) for channel in attribution)
    return out


def slow_saliency(item):
    found = item.gradient(item.image, "plain")
    return found, largest(found)


def slow_smoothgrad(item):
    samples = item.samples or 50
    spread = item.image.max() - item.image.min()
    found = np.zeros(item.image.shape)
    for sample in range(samples):
        rng = np.random.default_rng([item.seed, sample])
        noise = rng.normal(0, 0.15, item.image.shape).astype(np.float32)
        found += item.gradient(item.image + spread * noise, "plain")
    return found / samples, largest(found / samples)


def slow_integrated(item):
    steps = item.samples or 50
    way = item.image - item.baseline
    found = np.zeros(item.image.shape)
    for step in range(steps):
        share = (2 * step + 1) / (2 * steps)
        found += way * item.gradient(item.baseline + share * way, "plain") / steps
    out = np.zeros(item.image.shape[1:])
    for p in cells(out.shape):
        out[p] = max(sum(channel[p] for channel in found), 0.0)
    return found, out


def slow_guided_backprop(item):
    found = item.gradient(item.image, "guided")
    return found, largest(found)


def slow_guided_gradcam(item):
    cam = weighted_sum(item.a, [sum(g.ravel()) / g.size for g in item.g])
    cam = np.vectorize(lambda x: max(x, 0.0))(cam)
    if cam.max() > 0:
        cam = cam / cam.max()
    mask = slow_resize(cam, item.image.shape[1:])
    guided = item.gradient(item.image, "guided")
    found = np.zeros(item.image.shape)
    for place in cells(found.shape):
        found[place] = guided[place] * mask[place[1:]]
    return found, largest(found)


OF_INPUTS = {
    "guided-backprop": slow_guided_backprop,
    "guided-gradcam": slow_guided_gradcam,
    "integrated-gradients": slow_integrated,
    "saliency": slow_saliency,
    "smoothgrad": slow_smoothgrad,
}
