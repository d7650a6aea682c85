"""Methods of activations alone: principal components and sigma rules, class-agnostic.

A is `(N, C, P)`, P the cells of the grid; each function returns the signed map `(N, P)`, float32.
"""

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import LayerError
from gradcam_multi.finite import finite_rows
from gradcam_multi.products import gram, leading_vector
from gradcam_multi.spec import Array

Vectors = NDArray[np.float64]
_ROUNDING = 8 * np.finfo(np.float32).eps
MOST_CELLS = 4096  # 64 x 64: a kernel of 134 MB, and the cube of it in operations
FEM_SIGMAS = 2  # as in pytorch-grad-cam


def eigencam(activations: Array) -> Array:
    """Project the cells on the first principal component of the channels (Muhammad 2020).

    M is A_k minus its mean over space, as (P, C); the map is M v, v its first right singular
    vector. A singular vector has no sign of its own: the map's is the one that correlates with the
    mean over channels.
    """
    return first_component(activations)


def eigengradcam(activations: Array, gradients: Array) -> Array:
    """Project the cells on the first principal component of g A, as `eigencam` does of A.

    Its sign correlates with the mean of g A over channels; pytorch-grad-cam's leaves it open.
    """
    product = gradients.astype(np.float64) * activations
    return first_component(product)


def kpca_cam(activations: Array) -> Array:
    """Project the cells on the first kernel principal component of the channels (Karmani 2024).

    The kernel is tanh(x.y / C + 1) over cells x, y of A_k minus its mean over space, centred; the
    sign is that of `eigencam`. Raises LayerError for more than 4096 cells.
    """
    if activations.shape[-1] > MOST_CELLS:
        raise LayerError(
            f"kpca-cam was asked for at a layer of {activations.shape[-1]} cells, each of which it "
            f"compares with each: name one of at most {MOST_CELLS}, or take eigencam"
        )
    centred, scale = _centred(activations)
    maps = []
    for item, unit, mean in zip(centred, scale, activations.mean(1, np.float64), strict=True):
        with np.errstate(over="ignore"):
            kernel = np.tanh(gram(item) * unit * unit / len(item) + 1)
        kernel -= kernel.mean(0, keepdims=True)
        kernel -= kernel.mean(1, keepdims=True)
        value, vector = leading_vector(kernel)
        # Rounding of a flat kernel is no component.
        size = value if value > 1e-12 * len(kernel) else 0.0
        maps.append(_signed(vector * np.sqrt(size), mean))
    return np.array(maps, np.float32)


def fem(activations: Array) -> Array:
    """Sum each channel's strongest cells, each worth the channel's mean (Fuad 2020).

    The strongest are those at or above the mean plus two standard deviations of their channel.
    So Xplique reads the paper; pytorch-grad-cam weighs the activations by the share of such cells.
    """
    wide = activations.astype(np.float64)
    mean, deviation = wide.mean(-1, keepdims=True), wide.std(-1, keepdims=True)
    varied = wide.max(-1, keepdims=True) > wide.min(-1, keepdims=True)
    strong = (wide >= mean + FEM_SIGMAS * deviation) & varied
    out: Array = (mean * strong).sum(1).astype(np.float32)
    return out


def first_component(features: NDArray[np.floating]) -> Array:
    """Project (N, C, P) features on their first principal component over channels, (N, P).

    Through the Gram matrix of the smaller side, so that nothing of C x P is decomposed.
    """
    centred, scale = _centred(features)
    maps = []
    for item, unit, mean in zip(centred, scale, features.mean(1, np.float64), strict=True):
        if item.shape[0] <= item.shape[1]:
            _, vector = leading_vector(gram(item.T))
            projected = vector @ item
        else:
            value, vector = leading_vector(gram(item))
            projected = vector * np.sqrt(max(value, 0.0))
        # Components of the size of a rounding would be stretched to look like evidence.
        projected[:] = projected if np.abs(projected).max() > _ROUNDING else 0
        maps.append(_signed(projected * unit, mean))
    return np.array(maps, np.float32)


def _centred(features: NDArray[np.floating]) -> tuple[Vectors, Vectors]:
    """Features less their mean over space, in units of each item's largest, and these units.

    Items with NaN or infinity are zero: a decomposition of them would fail, and their status says
    what they are.
    """
    wide = features.astype(np.float64)
    wide[~finite_rows(wide)] = 0
    largest = np.abs(wide).max((1, 2), keepdims=True)
    np.divide(wide, largest, out=wide, where=largest > 0)
    wide -= wide.mean(-1, keepdims=True)
    wide[np.abs(wide) < 1e-15] = 0  # the rounding of a channel that is constant
    return wide, largest[:, 0, 0]


def _signed(component: Vectors, mean: Vectors) -> Vectors:
    """Turn a component so that it correlates with the mean; its largest cell decides a tie."""
    agreement = component @ np.nan_to_num(mean - mean.mean())
    if agreement == 0:
        agreement = component[np.abs(component).argmax()]
    return -component if agreement < 0 else component
