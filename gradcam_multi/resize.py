"""Half-pixel-centred linear resizing for any number of spatial axes.

Sample i of n output samples lies at (i + 0.5) * m / n - 0.5 of the m input samples, clamped to
the border: what ``align_corners=False``, ``tf.image.resize`` and OpenCV's linear mode compute.
Along one axis that is a matrix; a resize is one small matrix product per axis.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.spec import Array

# OpenBLAS starts threads for a product of more than 4 * 65536 multiplications, and they spin for
# up to 30 ms afterwards, on the cores that the model's next run needs: 2 ms of SqueezeNet became 7.
_SERIAL = 1 << 18
_FEWEST = 8  # columns at once: below, the product is large, and worth its threads


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


def resize(maps: ArrayLike, size: tuple[int, ...]) -> Array:
    """Resize (N, *grid) maps to (N, *size), float32, one axis after another.

    Raises ValueError where the ranks of grid and size differ.
    """
    out = np.asarray(maps, np.float32)
    if out.ndim != len(size) + 1:
        raise ValueError(f"cannot resize a grid of rank {out.ndim - 1} to the size {size}")
    # The first axis last: matmul broadcasts over what stands before its last two axes.
    for axis, target in reversed(list(enumerate(size, start=1))):
        source = out.shape[axis]
        if source != target:
            head, tail = out.shape[:axis], out.shape[axis + 1 :]
            matrix = interpolation_matrix(source, target)
            made = np.empty((*head, target, *tail), np.float32)
            if tail:
                columns = out.reshape(*head, source, -1)
                into = made.reshape(*head, target, -1)
                for part in _parts(columns.shape[-1], source * target):
                    np.matmul(matrix, columns[..., part], out=into[..., part])
            else:
                rows, into = out.reshape(-1, source), made.reshape(-1, target)
                for part in _parts(len(rows), source * target):
                    np.matmul(rows[part], matrix.T, out=into[part])
            out = made
    return out


def _parts(count: int, each: int) -> list[slice]:
    """Cut `count` columns of `each` multiplications into products that one thread makes."""
    step = _SERIAL // each
    if step < _FEWEST:
        return [slice(0, count)]
    return [slice(start, start + step) for start in range(0, count, step)]
