"""Each CAM method as a function of activations A and gradients g, before ReLU and resizing.

A and g are `(N, C, P)` float32, P the cells of the grid in C order; each function returns the
signed map `(N, P)`. Notation: r(x) = max(x, 0); k runs over channels; S is the score, g = dS/dA.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradcam_multi.errors import MethodError, suggest
from gradcam_multi.spec import Array

Combine = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Method:
    """A CAM method: its name, its formula in words, the map it makes, and where it is defined.

    `relu` says whether negative evidence is cut from the map; without it the signed map stays.
    """

    name: str
    formula: str
    combine: Combine
    paper: str
    relu: bool = True


def _weighted(weights: Array, activations: Array) -> Array:
    """Sum of channels, each times its weight: (N, C), (N, C, P) -> (N, P)."""
    out: Array = np.matmul(weights[:, None, :].astype(np.float32, copy=False), activations)[:, 0]
    return out


def _total(values: Array) -> Array:
    """Sum over space, (N, C, P) -> (N, C), in float64: signed terms may cancel."""
    total: Array = values.sum(-1, dtype=np.float64)
    return total


def gradcam(activations: Array, gradients: Array) -> Array:
    """Weigh each channel by its mean gradient (Selvaraju 2017, equations 1 and 2)."""
    return _weighted(gradients.mean(-1, dtype=np.float64), activations)


def gradcam_plus_plus(activations: Array, gradients: Array) -> Array:
    """Weigh each channel by its positive gradients, each times alpha (Chattopadhyay 2018, eq. 19).

    alpha = g^2 / (2 g^2 + g^3 sum(A_k)), zero where g is zero. It is not homogeneous in g, so g is
    first divided by its own largest magnitude and the weights multiplied by it again: the map then
    keeps its form whatever the unit of the score.
    """
    scale = np.abs(gradients).max((1, 2), keepdims=True).astype(np.float64)
    unit = np.divide(gradients, scale, out=np.zeros(gradients.shape), where=scale > 0)
    # g^2 / (2 g^2 + g^3 sum(A)) without the powers: they would underflow.
    denominator = 2 + unit * _total(activations)[..., None]
    positive = np.maximum(unit, 0)
    alpha_times_gradient = np.divide(
        positive, denominator, out=np.zeros_like(unit), where=denominator != 0
    )
    return _weighted(alpha_times_gradient.sum(-1) * scale[..., 0], activations)


def hirescam(activations: Array, gradients: Array) -> Array:
    """Multiply cell by cell, then sum over channels (Draelos 2020)."""
    out: Array = np.einsum("ncp,ncp->np", gradients, activations)
    return out


def layercam(activations: Array, gradients: Array) -> Array:
    """Weigh each cell by its own positive gradient (Jiang 2021)."""
    return hirescam(activations, np.maximum(gradients, 0))


def xgradcam(activations: Array, gradients: Array) -> Array:
    """Weigh each channel by its gradients averaged with its activations as weights (Fu 2020).

    A channel whose activations sum to zero has no weight.
    """
    total = _total(activations)
    weighted = np.einsum("ncp,ncp->nc", gradients, activations, dtype=np.float64)
    weights = np.divide(weighted, total, out=np.zeros_like(total), where=total != 0)
    return _weighted(weights, activations)


def elementwise(activations: Array, gradients: Array) -> Array:
    """Sum what is positive of gradient times activation, cell by cell."""
    out: Array = np.maximum(gradients * activations, 0).sum(1)
    return out


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("gradcam", "r(sum_k mean(g_k) A_k)", gradcam, "Selvaraju 2017, arXiv:1610.02391"),
        Method(
            "gradcam++",
            "r(sum_k w_k A_k), w_k = sum(a r(g_k)), a = g^2 / (2 g^2 + g^3 sum(A_k))",
            gradcam_plus_plus,
            "Chattopadhyay 2018, arXiv:1710.11063",
        ),
        Method("hirescam", "r(sum_k g_k A_k)", hirescam, "Draelos 2020, arXiv:2011.08891"),
        Method("layercam", "r(sum_k r(g_k) A_k)", layercam, "Jiang 2021, TIP 30:5875"),
        Method(
            "xgradcam",
            "r(sum_k w_k A_k), w_k = sum(g_k A_k) / sum(A_k)",
            xgradcam,
            "Fu 2020, arXiv:2008.02312",
        ),
        Method(
            "gradcam-elementwise",
            "sum_k r(g_k A_k)",
            elementwise,
            "pytorch-grad-cam's GradCAMElementWise",
        ),
    )
}


def method_named(name: str) -> Method:
    """Return a method from the table; raise MethodError for a name that is not in it."""
    try:
        return METHODS[name]
    except (KeyError, TypeError):
        raise MethodError(
            f"no method is called {name!r}; there are {', '.join(METHODS)}"
            f"{suggest(str(name), METHODS)}"
        ) from None
