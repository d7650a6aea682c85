"""Items of a batch that hold NaN or infinity, or nothing but zero, told in one pass."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Told = NDArray[np.bool_]


def finite_rows(array: NDArray[np.floating[Any]]) -> Told:
    """(N,) whether each of (N, ...) items is free of NaN and infinity."""
    rows = _rows(array)
    return _finite(rows, _sums(rows))


def finite_and_zero(array: NDArray[np.floating[Any]]) -> tuple[Told, Told]:
    """(N,) whether each of (N, ...) items is free of NaN and infinity, and whether it is zero."""
    rows = _rows(array)
    sums = _sums(rows)
    zero = sums == 0
    for index in np.flatnonzero(zero):  # its values may cancel
        zero[index] = not rows[index].any()
    return _finite(rows, sums), zero


def _rows(array: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    # In the order of memory: a view with its channels in front of the grid would be copied.
    order = sorted(range(1, array.ndim), key=lambda axis: -array.strides[axis])
    return array.transpose(0, *order).reshape(len(array), -1)


def _sums(rows: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    with np.errstate(all="ignore"):
        sums: NDArray[np.floating[Any]] = np.einsum("np->n", rows)  # faster than sum
    return sums


def _finite(rows: NDArray[np.floating[Any]], sums: NDArray[np.floating[Any]]) -> Told:
    # A sum is finite unless an addend is not, or it overflows: only then look.
    finite: Told = np.isfinite(sums)
    for index in np.flatnonzero(~finite):
        finite[index] = np.isfinite(rows[index]).all()
    return finite
