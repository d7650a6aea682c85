"""ROAD (Rong 2022): pixels removed so that their absence does not give away where they were.

A removed pixel becomes the weighted mean of its eight neighbours, direct ones with weight 1/6 and
diagonal ones with 1/12, all removed pixels at once: a sparse linear system. A little noise on top
keeps the smooth patch from being seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import InputError, MissingExtraError
from gradcam_multi.metrics.curves import ranks
from gradcam_multi.metrics.score import Items, Score, Vector, in_chunks, item_generators
from gradcam_multi.spec import Array

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
NOISE = 0.01
_DIRECT, _DIAGONAL = 1 / 6, 1 / 12
_NEIGHBOURS = {
    (down, right): _DIRECT if 0 in (down, right) else _DIAGONAL
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
}


@dataclass(frozen=True, eq=False)
class Road:
    """Scores (N, shares) with the most and with the least relevant share of pixels removed."""

    shares: tuple[float, ...]
    most: Vector
    least: Vector

    @property
    def combined(self) -> Vector:
        """(N,) half of what the least relevant leave more than the most, averaged over shares."""
        mean: Vector = (self.least - self.most).mean(1) / 2
        return mean


def road(
    score: Score,
    inputs: Array,
    heatmaps: Array,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = NOISE,
    seed: int = 0,
    first: int = 0,
    chunk: int | None = None,
) -> Road:
    """Score (N, C, H, W) inputs without shares of their most and of their least relevant pixels.

    `noise` is the standard deviation of what is added to imputed pixels, as a share of the item's
    own. Twice as many forward passes an item as `shares`. Raises MissingExtraError without SciPy,
    InputError for shares outside of (0, 1) and for inputs without two spatial axes. Rong 2022,
    arXiv:2202.00449; the combination is pytorch-grad-cam's.
    """
    require_scipy()
    if inputs.ndim != 4 or not shares or not all(0 < share < 1 for share in shares):
        raise InputError(
            f"ROAD removes shares between 0 and 1 of pictures (N, C, H, W): found the shares "
            f"{tuple(shares)} and the shape {inputs.shape}"
        )
    places = ranks(heatmaps, seed=seed, first=first)
    items, pixels = places.shape
    # At least one pixel is removed and one is kept: without any, nothing could be imputed from.
    counts = [min(max(1, round(share * pixels)), pixels - 1) for share in shares]
    variants = 2 * len(counts)

    def make(which: Items) -> Array:
        out = []
        for row in which:
            item, variant = divmod(int(row), variants)
            least, step = divmod(variant, len(counts))
            place = pixels - 1 - places[item] if least else places[item]
            rng = item_generators(seed, first + item, 1)[0].spawn(variants)[variant]
            out.append(imputed(inputs[item], place < counts[step], noise, rng))
        return np.stack(out)

    owners = np.repeat(np.arange(items), variants)
    found = in_chunks(score, make, owners, inputs, chunk).reshape(items, 2, len(counts))
    return Road(tuple(shares), found[:, 0], found[:, 1])


def imputed(
    image: Array, removed: NDArray[np.bool_], noise: float, rng: np.random.Generator
) -> Array:
    """Return a (C, H, W) picture with the removed pixels, (H * W,) in C order, imputed.

    Neighbours outside of the picture do not count: the weights of the others are scaled to one.
    """
    from scipy.sparse import csc_matrix
    from scipy.sparse.linalg import splu

    height, width = image.shape[1:]
    gone = np.flatnonzero(removed)
    unknown = np.full(height * width, -1)
    unknown[gone] = np.arange(len(gone))
    flat = image.reshape(len(image), -1).astype(np.float64)
    row, column = np.divmod(gone, width)
    total = np.zeros(len(gone))
    right = np.zeros((len(gone), len(image)))
    rows, columns, values = [np.arange(len(gone))], [np.arange(len(gone))], [total]
    for (down, across), weight in _NEIGHBOURS.items():
        inside = (row + down >= 0) & (row + down < height)
        inside &= (column + across >= 0) & (column + across < width)
        own = np.flatnonzero(inside)
        neighbour = gone[own] + down * width + across
        total[own] += weight
        known = unknown[neighbour] < 0
        right[own[known]] += weight * flat[:, neighbour[known]].T
        rows.append(own[~known])
        columns.append(unknown[neighbour[~known]])
        values.append(np.full(np.count_nonzero(~known), -weight))
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    matrix = csc_matrix(entries, shape=(len(gone), len(gone)))
    # Symmetric and diagonally dominant: no pivoting is needed, and far less is filled in.
    solver = splu(matrix, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    filled = solver.solve(right).T
    filled += noise * image.std(dtype=np.float64) * rng.standard_normal(filled.shape)
    flat[:, gone] = filled
    return flat.reshape(image.shape).astype(np.float32)


def require_scipy() -> None:
    """Raise MissingExtraError where SciPy is absent."""
    if find_spec("scipy") is None:
        raise MissingExtraError(
            "ROAD solves a sparse linear system by SciPy, which is not installed; "
            'run: python -m pip install "gradcam-multi[metrics]"'
        )
