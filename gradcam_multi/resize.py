"""Half-pixel-centred linear resizing for any number of spatial axes.

Sample i of n output samples lies at (i + 0.5) * m / n - 0.5 of the m input samples, clamped to
the border: what ``align_corners=False``, ``tf.image.resize`` and OpenCV's linear mode compute.
Along one axis that is a matrix, of which a band alone is not zero: a resize is a few small matrix
products per axis.
"""

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.products import product
from gradcam_multi.spec import Array


def interpolation_weights(position: NDArray[np.floating[Any]], source: int) -> Array:
    """Return the (len(position), source) float32 weights of samples at positions between cells.

    Cell centres are at 0, 1, ..., source - 1; positions beyond the first or last take its value.
    """
    position = np.clip(position, 0, source - 1)
    low = np.floor(position).astype(np.intp)
    high = np.minimum(low + 1, source - 1)
    weights = np.zeros((len(position), source), np.float32)
    rows = np.arange(len(position))
    weights[rows, high] = position - low
    weights[rows, low] += 1 - (position - low)  # += for the border, where low == high
    return weights


@lru_cache(maxsize=256)
def interpolation_matrix(source: int, target: int) -> Array:
    """Return the (target, source) float32 matrix of linear interpolation along one axis."""
    weights = interpolation_weights((np.arange(target) + 0.5) * (source / target) - 0.5, source)
    weights.setflags(write=False)  # shared by every caller through the cache
    return weights


_BAND = 64
"""Samples made by one product: fewer read fewer zeros, and are more calls."""


class _Band(NamedTuple):
    """Samples along one axis, the cells between the first and the last that they read, weights."""

    samples: slice
    cells: slice
    weights: Array


@lru_cache(maxsize=256)
def _bands(source: int, target: int) -> tuple[_Band, ...]:
    """Return the matrix of linear interpolation along one axis, cut to what is not zero."""
    matrix, found = interpolation_matrix(source, target), []
    for first in range(0, target, _BAND):
        samples = slice(first, min(first + _BAND, target))
        read = np.flatnonzero(matrix[samples].any(axis=0))
        cells = slice(int(read[0]), int(read[-1]) + 1)
        found.append(_Band(samples, cells, matrix[samples, cells]))
    return tuple(found)


def resize(maps: ArrayLike, size: tuple[int, ...]) -> Array:
    """Resize (N, *grid) maps to (N, *size), float32, one axis after another.

    Raises ValueError where the ranks of grid and size differ.
    """
    out = np.asarray(maps, np.float32)
    if out.ndim != len(size) + 1:
        raise ValueError(f"cannot resize a grid of rank {out.ndim - 1} to the size {size}")
    # The first axis last: matmul broadcasts over what stands before its last two axes.
    for axis, target in reversed(list(enumerate(size, start=1))):
        if out.shape[axis] != target:
            head, tail = out.shape[:axis], out.shape[axis + 1 :]
            given = out.reshape(*head, out.shape[axis], prod(tail)) if tail else out
            out = np.empty((*head, target, *given.shape[axis + 1 :]), np.float32)
            for samples, cells, weights in _bands(given.shape[axis], target):
                if tail:
                    product(weights, given[..., cells, :], out[..., samples, :])
                else:
                    product(given[..., cells], weights.T, out[..., samples])
            out = out.reshape(*head, target, *tail)
    return out
