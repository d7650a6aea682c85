"""Matrix products that leave the processor to the framework.

OpenBLAS, which NumPy's wheels carry, shares a large product out among threads, and these spin for
a tenth of a second after it: inference that comes next would have to do without their cores, and
on two cores took up to half as long again. Smaller products stay on the calling thread, and are
as fast here: heatmaps are small.
"""

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.spec import Array

LARGEST = 1 << 18
"""Multiplications of one product; OpenBLAS 0.3 takes more threads above 4 times 65536."""

_SQUARINGS = 40  # tell eigenvalues apart that differ by 1 in 10^11
_SETTLED = 1e-13  # what is missing to 1 of the sum of squares, hundreds of roundings

Vectors = NDArray[np.float64]


def gram(rows: Vectors) -> Vectors:
    """Multiply the transpose of (K, M) by it, (M, M), in pieces of at most `LARGEST`.

    With more than 256 columns these would be too thin: all are then multiplied at once.
    """
    many, columns = rows.shape
    piece = LARGEST // columns**2 if columns <= 256 else many
    total = np.zeros((columns, columns))
    for first in range(0, many, piece):
        part = rows[first : first + piece]
        total += np.matmul(part.T, part)
    return total


def leading_vector(matrix: Vectors) -> tuple[float, Vectors]:
    """Return the largest eigenvalue of a symmetric matrix (M, M), and its vector.

    A small one is squared until its columns are multiples of the vector, since LAPACK wakes
    threads from 32 rows on. It decides where that does not settle: where the largest eigenvalue
    is none in magnitude, or is one of several.
    """
    power = matrix
    for _ in range(_SQUARINGS if matrix.size * len(matrix) <= LARGEST else 0):
        power = np.matmul(power, power)
        power /= np.trace(power) or 1
        if 1 - np.einsum("ij,ij->", power, power) < _SETTLED:
            vector = power[:, np.diagonal(power).argmax()]
            vector = vector / np.sqrt(vector @ vector)
            value = float(vector @ np.matmul(matrix, vector))
            if value > 0:
                return value, vector
            break
    values, vectors = np.linalg.eigh(matrix)
    return float(values[-1]), vectors[:, -1]


def product(left: Array, right: Array, out: Array | None = None) -> Array:
    """Multiply stacks of matrices, (..., M, K) by (..., K, N), in pieces of at most `LARGEST`.

    The result is written to `out`, where that is given.
    """
    rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    wide = min(columns, max(1, LARGEST // max(1, inner)))
    high = min(rows, max(1, LARGEST // max(1, inner * wide)))
    if (high, wide) == (rows, columns):
        whole: Array = np.matmul(left, right, out=out)
        return whole
    if out is None:
        leading = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        out = np.empty((*leading, rows, columns), np.result_type(left, right))
    for top in range(0, rows, high):
        for first in range(0, columns, wide):
            down, across = slice(top, top + high), slice(first, first + wide)
            np.matmul(left[..., down, :], right[..., across], out=out[..., down, across])
    return out
