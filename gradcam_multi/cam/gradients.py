"""Methods of activations A and gradients g = dS/dA: what each weighs the channels by.

A and g are `(N, C, P)` float32, P the cells of the grid in C order; each function returns the
weights of the channels, `(N, C)`, or of their cells, `(N, C, P)`. The signed map is the sum over
channels of weight times A. Notation: r(x) = max(x, 0); k runs over channels.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.products import product
from gradcam_multi.spec import Array

Vectors = NDArray[np.float64]


def weighted(weights: NDArray[np.floating], activations: Array) -> Array:
    """Sum of channels (N, C, P), each times its weight (N, C) or weights (N, C, P); (N, P)."""
    narrow = weights.astype(np.float32, copy=False)
    if weights.ndim == 3:
        cellwise: Array = np.einsum("ncp,ncp->np", narrow, activations)
        return cellwise
    return product(narrow[:, None, :], activations)[:, 0]


def weighted_terms(weights: NDArray[np.floating], activations: Array) -> Vectors:
    """Return the terms of that sum, (N, C, P) float64."""
    wide = weights.astype(np.float64)
    return (wide if weights.ndim == 3 else wide[..., None]) * activations


def _total(values: Array) -> Vectors:
    """Sum over space, (N, C, P) -> (N, C), in float64: signed terms may cancel."""
    # In half the time of sum, which sets out anew for each of a few cells.
    total: Vectors = np.einsum("ncp->nc", values, dtype=np.float64)
    return total


def gradcam(_: Array, gradients: Array) -> Vectors:
    """Weigh each channel by its mean gradient (Selvaraju 2017, equations 1 and 2)."""
    mean: Vectors = _total(gradients) / gradients.shape[-1]
    return mean


def gradcam_plus_plus(activations: Array, gradients: Array) -> Vectors:
    """Weigh each channel by its positive gradients, each times alpha (Chattopadhyay 2018, eq. 19).

    alpha = g^2 / (2 g^2 + g^3 sum(A_k)), zero where g is zero. It is not homogeneous in g, so g is
    first divided by its own largest magnitude and the weights multiplied by it again: the map then
    keeps its form whatever the unit of the score.
    """
    return _by_item(_by_alpha, activations, gradients)


def gradcam_plus_plus_official(activations: Array, gradients: Array) -> Vectors:
    """Like `gradcam_plus_plus`, each channel's alphas divided by their sum over r(g) != 0.

    So the authors' program does (Chattopadhyay 2018), which their equation 19 leaves out. Where
    that sum is zero, the alphas stay as they are.
    """
    return _by_item(_by_shares_of_alpha, activations, gradients)


def _by_item(
    weigh: Callable[[Vectors, Vectors], Vectors], activations: Array, gradients: Array
) -> Vectors:
    """Weights (N, C) of each item's gradients (C, P) in their own unit, their largest magnitude.

    `weigh` is given g and 2 + g sum(A), (C, P) float64 both, to write into: alpha is one divided
    by the latter, without the powers of g, which would underflow. Item by item, they stay in the
    processor's cache: on a batch of 8 that takes a fifth of the time.
    """
    totals = _total(activations)
    weights = np.zeros(totals.shape)
    for item, gradient, total in zip(weights, gradients, totals, strict=True):
        scale = np.float64(np.abs(gradient).max())
        if scale != 0:
            unit = gradient / scale
            item[:] = weigh(unit, 2 + unit * total[:, None]) * scale
    return weights


def _by_alpha(unit: Vectors, denominator: Vectors) -> Vectors:
    denominator[denominator == 0] = np.inf
    positive = np.maximum(unit, 0, out=unit)
    positive /= denominator
    weights: Vectors = positive.sum(-1)
    return weights


def _by_shares_of_alpha(unit: Vectors, denominator: Vectors) -> Vectors:
    denominator[(denominator == 0) | (unit <= 0)] = np.inf
    alpha = 1 / denominator
    total = alpha.sum(-1, keepdims=True)
    alpha = np.divide(alpha, total, out=alpha, where=total != 0)
    weights: Vectors = (alpha * np.maximum(unit, 0)).sum(-1)
    return weights


def hirescam(_: Array, gradients: Array) -> Array:
    """Weigh each cell by its own gradient (Draelos 2020)."""
    return gradients


def layercam(_: Array, gradients: Array) -> Array:
    """Weigh each cell by its own positive gradient (Jiang 2021)."""
    positive: Array = np.maximum(gradients, 0)
    return positive


def xgradcam(activations: Array, gradients: Array) -> Vectors:
    """Weigh each channel by its gradients averaged with its activations as weights (Fu 2020).

    A channel whose activations sum to zero has no weight.
    """
    total = _total(activations)
    product = np.einsum("ncp,ncp->nc", gradients, activations, dtype=np.float64)
    weights: Vectors = np.divide(product, total, out=np.zeros_like(total), where=total != 0)
    return weights


def elementwise(activations: Array, gradients: Array) -> Array:
    """Weigh each cell by its gradient where that speaks for the target: sum_k r(g_k A_k)."""
    return np.where((gradients > 0) == (activations > 0), gradients, np.float32(0))
