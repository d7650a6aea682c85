"""MuFidelity: does the relevance of a part say how much the score drops without it?"""

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import InputError
from gradcam_multi.metrics.baselines import Baseline, baseline_of
from gradcam_multi.metrics.score import Items, Score, Vector, in_chunks, item_generators
from gradcam_multi.spec import Array

SUBSETS = 200
SHARE = 0.2
CELLS = 9


def mu_fidelity(
    score: Score,
    inputs: Array,
    heatmaps: Array,
    *,
    subsets: int = SUBSETS,
    share: float = SHARE,
    cells: int | None = CELLS,
    baseline: Baseline = "mean",
    seed: int = 0,
    first: int = 0,
    chunk: int | None = None,
) -> Vector:
    """Return (N,) correlations in [-1, 1] of the relevance of random subsets and the drop of score.

    A subset is `share` of the `cells` by `cells` blocks of the input (None: of its pixels), all
    replaced by the baseline at once; its relevance is the heatmap's sum over it. Higher is better;
    0 where all subsets are worth the same to either. `subsets` + 1 forward passes an item. Raises
    InputError for numbers that leave nothing to correlate. Bhatt 2020, arXiv:2005.00631.
    """
    if subsets < 2 or not 0 < share < 1:
        raise InputError(
            f"{subsets} subsets of the share {share} were asked for: give at least 2, of a share "
            "between 0 and 1"
        )
    size = inputs.shape[2:]
    cell = cell_numbers(size, cells)
    count = int(cell.max()) + 1
    chosen = np.stack(
        [_subsets(rng, count, share, subsets) for rng in item_generators(seed, first, len(inputs))]
    )
    flat = heatmaps.reshape(len(heatmaps), -1).astype(np.float64)
    worth = np.stack([np.bincount(cell, row, count) for row in flat])
    relevance = np.einsum("nsk,nk->ns", chosen, worth)
    replaced = np.broadcast_to(baseline_of(inputs, baseline), inputs.shape)
    shape = (*inputs.shape[:2], -1)
    kept, gone = inputs.reshape(shape), replaced.reshape(shape)
    owners = np.repeat(np.arange(len(inputs)), subsets)

    def make(which: Items) -> Array:
        item, subset = np.divmod(which, subsets)
        hidden = chosen[item, subset][:, cell]
        return np.where(hidden[:, None], gone[item], kept[item]).reshape(-1, *inputs.shape[1:])

    before = score(inputs, np.arange(len(inputs)))
    drop = before[:, None] - in_chunks(score, make, owners, inputs, chunk).reshape(-1, subsets)
    return correlations(relevance, drop)


def cell_numbers(size: tuple[int, ...], cells: int | None) -> NDArray[np.intp]:
    """Return for each pixel, in C order, the number of its block; None makes each pixel one."""
    sides = [n if cells is None else min(cells, n) for n in size]
    places = [np.arange(n) * side // n for n, side in zip(size, sides, strict=True)]
    numbers: NDArray[np.intp] = np.ravel_multi_index(np.meshgrid(*places, indexing="ij"), sides)
    return numbers.ravel()


def _subsets(rng: np.random.Generator, count: int, share: float, subsets: int) -> NDArray[np.bool_]:
    """(subsets, count) each with the same number of cells chosen."""
    most = min(max(1, round(share * count)), count)
    chosen = np.zeros((subsets, count), np.bool_)
    order = rng.random((subsets, count)).argsort(1)[:, :most]
    np.put_along_axis(chosen, order, True, axis=1)
    return chosen


def correlations(a: Vector, b: Vector) -> Vector:
    """Return (N,) Pearson's correlations of the rows of (N, S); 0 where one does not vary."""
    out = np.zeros(len(a))
    for row, pair in enumerate(zip(a, b, strict=True)):
        largest = [np.abs(values).max() for values in pair]
        # Rounding makes a constant vary by some units in the last place; that is no evidence.
        spread = [np.ptp(v) > 1e-12 * m for v, m in zip(pair, largest, strict=True)]
        if all(spread):
            unit = [v / m for v, m in zip(pair, largest, strict=True)]
            out[row] = np.clip(np.corrcoef(*unit)[0, 1], -1, 1)
    return out
