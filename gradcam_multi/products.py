"""Matrix products that leave the processor to the framework.

OpenBLAS, which NumPy's wheels carry, shares a large product out among threads, and these spin for
a tenth of a second after it: inference that comes next would have to do without their cores, and
on two cores took up to half as long again. Smaller products stay on the calling thread, and are
as fast here: heatmaps are small.
"""

import numpy as np

from gradcam_multi.spec import Array

LARGEST = 1 << 18
"""Multiplications of one product; OpenBLAS 0.3 takes more threads above 4 times 65536."""


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
