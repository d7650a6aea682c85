"""Methods of networks that are affine from the layer to the logits: CAM and Shapley-CAM.

Whether a network is so is asked of itself, by runs from the layer on with other activations: once
for each explainer, layer and shape, since weights may change and what is between them does not.
Each function takes a `Probe` and returns the weights of the channels, `(N, C)`.
"""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam.gradients import gradcam
from gradcam_multi.cam.probe import Probe, Scores
from gradcam_multi.errors import LayerError
from gradcam_multi.finite import finite_rows
from gradcam_multi.spec import Array

MEAN_AND_DENSE = "global mean pooling and one dense layer behind the layer"
AFFINE = "nothing but affine operations (pooling, one dense layer) behind the layer"
# Networks in half precision round to 2^-11, and a few such roundings add up. What is not affine
# differs by about the whole of what it is compared with.
_TOLERANCE = 5e-3
_STEP = 4.0  # of the largest activation: units behind the layer change sides at such a distance


def cam(probe: Probe) -> Scores:
    """Weigh each channel by its weight in the dense layer behind global mean pooling (Zhou 2016).

    That is the sum over the grid of dS/dA, wherever it is a weight of the network at all: the
    gradient is the same in all cells, and S(A) = sum_k w_k mean(A_k) + b also for activations that
    are far from these. Raises LayerError where either is not so.
    """
    gradients, activations = probe.gradients(), probe.activations
    flat = gradients.reshape(*gradients.shape[:2], -1).astype(np.float64)
    sound = finite_rows(activations) & finite_rows(gradients)
    weights: Scores = flat.sum(-1)
    size = np.abs(flat).max((1, 2))
    spread = np.ptp(flat, axis=-1).max(1)
    if (spread > _TOLERANCE * size)[sound].any():
        raise _refused("cam", "the gradient differs between the cells of a channel", MEAN_AND_DENSE)
    probe.once(MEAN_AND_DENSE, partial(_foretold, probe, flat, sound))
    return weights


def _foretold(probe: Probe, slope: Scores, sound: NDArray[np.bool_]) -> bool:
    """Whether the logits of all classes are affine, and all items were sound enough to tell.

    Raises LayerError where the slope (N, C, P) does not foretell the score far from here.
    """
    activations = probe.activations
    step = _step(activations)
    points = (activations, activations + step, activations - step)
    count = len(activations)
    read = probe.replayed_logits if probe.of_classes else probe.replayed_scores
    found = np.stack([read(1, partial(_one, point))[0] for point in points])
    here, ahead, back = every = found.reshape(3, count, -1)
    own = np.arange(count), np.array(probe.classes if probe.of_classes else [0] * count)
    moved = (slope * step.reshape(slope.shape)).sum((1, 2))
    for score, expected in ((ahead[own], moved), (back[own], -moved)):
        missing = np.abs(score - here[own] - expected)
        size = np.max(np.abs([score, here[own], moved]), axis=0)
        if (missing > _TOLERANCE * size)[sound].any():
            raise _refused("cam", "the score is no sum over the channels' means", MEAN_AND_DENSE)
    straight = np.abs(ahead + back - 2 * here) <= _TOLERANCE * np.abs(every).max((0, 2))[:, None]
    return bool(sound.all() and straight.all())


def shapleycam(probe: Probe) -> Scores:
    """Weigh each channel by mean(g - H A / 2), of the score z_c + log p_c (Cai 2025).

    The score is the paper's ReST: its derivatives with respect to the logits z are known, and z is
    affine in A, so that the product with the Hessian H is exact: J^T F J A, F the second derivative
    with respect to z and J A = z(A) - z(0). Raises LayerError where z is not affine in A, and
    TargetError for a target that is about no class.
    """
    activations, chosen = probe.activations, probe.classes
    sound = finite_rows(activations)
    nothing = np.zeros_like(activations)
    here, (zero,) = probe.logits, probe.replayed_logits(1, partial(_one, nothing))
    moved = here - zero  # J A
    probe.once(AFFINE, partial(_affine, probe, moved, sound))
    exponential = np.exp(here - here.max(1, keepdims=True))
    p = exponential / exponential.sum(1, keepdims=True)
    # (2 e_c - p) - F J A / 2, F = p p^T - diag(p)
    cotangents = 0.5 * p * (moved - (p * moved).sum(1, keepdims=True)) - p
    cotangents[np.arange(len(chosen)), chosen] += 2
    cotangents[~sound] = 0  # NaN of one item would spread over a batch that is scaled as a whole
    flat = (*activations.shape[:2], -1)
    return gradcam(activations.reshape(flat), probe.pulled(cotangents).reshape(flat))


def _affine(probe: Probe, moved: Scores, sound: NDArray[np.bool_]) -> bool:
    """Whether all items are sound; raise where the activations move some logits by less or more.

    `moved` (N, classes) is what they add to the logits of zero.
    """
    activations = probe.activations
    step = _step(activations)
    for start in (step, -step):
        before, after = (
            probe.replayed_logits(1, partial(_one, point))[0]
            for point in (start, start + activations)
        )
        size = np.abs([before, after, moved]).max((0, 2))
        if (np.abs(after - before - moved).max(1) > _TOLERANCE * size)[sound].any():
            raise _refused("shapley-cam", "the logits are not affine in the activations", AFFINE)
    return bool(sound.all())


def _one(point: Array, _: range) -> Array:
    """Make the only variant of the activations."""
    return point[None]


def _step(activations: Array) -> Array:
    """A large step of the activations, the same for all items but for each one's magnitude."""
    rng = np.random.default_rng(0)
    channels, grid = activations.shape[1], activations.shape[2:]
    # Each channel moves as a whole, or else a mean over space would hardly move; and its cells.
    direction = rng.normal(size=(channels, *(1,) * len(grid))) + rng.normal(size=(channels, *grid))
    axes = tuple(range(1, activations.ndim))
    largest = np.abs(np.nan_to_num(activations, posinf=0, neginf=0)).max(axes, keepdims=True)
    largest[largest == 0] = 1
    step: Array = (_STEP * largest * direction).astype(np.float32)
    return step


def _refused(method: str, found: str, needed: str) -> LayerError:
    return LayerError(
        f"{method} was asked for at a layer where {found}: it is defined for {needed} only; take "
        "gradcam, or name another layer"
    )
