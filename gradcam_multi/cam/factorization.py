"""Factorization of a matrix without negative entries into a product of two small ones."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
_ROUNDS = 500
_SETTLED = 1e-7  # of the squared norm: a round that takes less than this off the error is the last


@dataclass(frozen=True)
class Factors:
    """X (rows, columns) as about `left` (rows, k) times `right` (k, columns), all at least zero.

    Each column of `left` has 1 as its largest entry, or is zero throughout; the columns come in
    order of what they contribute to the squared norm. `explained` is 1 less the squared norm of
    what is missing, over that of X.
    """

    left: Matrix
    right: Matrix
    explained: float


def factorize(matrix: NDArray[np.floating], number: int) -> Factors:
    """Factorize a finite matrix (rows, columns) without negative entries into `number` products.

    By hierarchical alternating least squares (Cichocki 2009): column after column is set to its
    best value while all others stay. It starts from the singular vectors (Boutsidis 2008), without
    random numbers: equal matrices give equal factors. `number` is at most the smaller extent.
    """
    largest = float(matrix.max(initial=0))
    unit = matrix.astype(np.float64) / (largest or 1)
    left, right = _start(unit, number)
    whole = float((unit * unit).sum())
    before = np.inf
    for _ in range(_ROUNDS):
        _improve(right.T, unit.T @ left, left.T @ left)
        overlap, gram = unit @ right.T, right @ right.T
        _improve(left, overlap, gram)
        missing = whole - 2 * float((left * overlap).sum()) + float((left.T @ left * gram).sum())
        if before - missing <= _SETTLED * whole:
            break
        before = missing
    scale = left.max(0, initial=0)
    left = np.divide(left, scale, out=np.zeros_like(left), where=scale > 0)
    right = right * (scale * largest)[:, None]
    order = np.argsort(-((left**2).sum(0) * (right**2).sum(1)), kind="stable")
    explained = 1 - max(missing, 0.0) / whole if whole else 1.0
    return Factors(left[:, order], right[order], explained)


def _improve(factor: Matrix, overlap: Matrix, gram: Matrix) -> None:
    """Set each column of a factor, in place, to the best there is while all else stays.

    `overlap` is X times the other factor, `gram` that factor's products with itself.
    """
    for k in range(len(gram)):
        if gram[k, k] > 0:
            change = (overlap[:, k] - factor @ gram[:, k]) / gram[k, k]
            np.maximum(factor[:, k] + change, 0, out=factor[:, k])
        else:
            factor[:, k] = 0


def _start(matrix: Matrix, number: int) -> tuple[Matrix, Matrix]:
    """Nonnegative parts of the leading singular vectors, through the smaller Gram matrix."""
    wide = matrix.shape[0] <= matrix.shape[1]
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    values, vectors = np.linalg.eigh(gram)
    leading = vectors[:, ::-1][:, :number]
    other = (matrix.T if wide else matrix) @ leading  # the other side's, times the singular values
    rows, columns = (leading, other) if wide else (other, leading)
    left, right = np.zeros(rows.shape), np.zeros(columns.T.shape)
    for k, (u, v) in enumerate(zip(rows.T, columns.T, strict=True)):
        parts = [(np.maximum(sign * u, 0), np.maximum(sign * v, 0)) for sign in (1, -1)]
        sizes = [np.linalg.norm(a) * np.linalg.norm(b) for a, b in parts]
        a, b = parts[int(np.argmax(sizes))]
        if max(sizes) > 1e-12 * np.sqrt(max(values[-1], 0)):  # rounding is no component
            share = np.sqrt(np.linalg.norm(b) / np.linalg.norm(a))
            left[:, k], right[k] = a * share, b / share
    return left, right
