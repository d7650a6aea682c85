"""Methods of activations A and gradients g = dS/dA: what each weighs the channels by.

A and g are `(N, C, P)` float32, P the cells of the grid in C order; each function returns the
weights of the channels, `(N, C)`, or of their cells, `(N, C, P)`. The signed map is the sum over
channels of weight times A. Notation: r(x) = max(x, 0); k runs over channels.
"""

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
    unit, scale = _in_own_unit(gradients)
    # g^2 / (2 g^2 + g^3 sum(A)) without the powers: they would underflow.
    denominator = 2 + unit * _total(activations)[..., None]
    positive = np.maximum(unit, 0)
    alpha_times_gradient = np.divide(
        positive, denominator, out=np.zeros_like(unit), where=denominator != 0
    )
    weights: Vectors = alpha_times_gradient.sum(-1) * scale[..., 0]
    return weights


def gradcam_plus_plus_official(activations: Array, gradients: Array) -> Vectors:
    """Like `gradcam_plus_plus`, each channel's alphas divided by their sum over r(g) != 0.

    So the authors' program does (Chattopadhyay 2018), which their equation 19 leaves out. Where
    that sum is zero, the alphas stay as they are.
    """
    unit, scale = _in_own_unit(gradients)
    denominator = 2 + unit * _total(activations)[..., None]
    alpha = np.divide(
        1, denominator, out=np.zeros_like(unit), where=(denominator != 0) & (unit > 0)
    )
    total = alpha.sum(-1, keepdims=True)
    alpha = np.divide(alpha, total, out=alpha, where=total != 0)
    weights: Vectors = (alpha * np.maximum(unit, 0)).sum(-1) * scale[..., 0]
    return weights


def _in_own_unit(gradients: Array) -> tuple[Vectors, Vectors]:
    """Gradients of each item divided by their largest magnitude, and that, in float64."""
    scale = np.abs(gradients).max((1, 2), keepdims=True).astype(np.float64)
    return np.divide(gradients, scale, out=np.zeros(gradients.shape), where=scale > 0), scale


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
