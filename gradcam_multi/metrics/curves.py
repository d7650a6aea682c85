"""Deletion and insertion (Petsiuk 2018): pixels changed in the order of their relevance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import InputError
from gradcam_multi.metrics.baselines import Baseline, baseline_of
from gradcam_multi.metrics.score import Items, Score, Vector, in_chunks, item_generators
from gradcam_multi.spec import Array

STEPS = 50


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores (N, steps + 1) at the shares (steps + 1,) of pixels changed, from 0 to 1."""

    shares: Vector
    scores: Vector

    @property
    def area(self) -> Vector:
        """(N,) area under the curve by trapezoids; of probabilities, in [0, 1]."""
        width, height = np.diff(self.shares), (self.scores[:, 1:] + self.scores[:, :-1]) / 2
        return height @ width


def ranks(heatmaps: Array, *, seed: int = 0, first: int = 0) -> NDArray[np.intp]:
    """Return (N, P) the place of each of P pixels, in C order, from the most relevant, 0, on.

    Equal pixels take turns by lot: in the order of the memory a blank heatmap would begin at the
    top, where photographs have least to see.
    """
    flat = heatmaps.reshape(len(heatmaps), -1)
    out = np.empty(flat.shape, np.intp)
    for row, (values, rng) in enumerate(
        zip(flat, item_generators(seed, first, len(flat)), strict=True)
    ):
        out[row, np.lexsort((rng.random(len(values)), -values))] = np.arange(len(values))
    return out


def deletion(
    score: Score,
    inputs: Array,
    heatmaps: Array,
    *,
    steps: int = STEPS,
    baseline: Baseline = "mean",
    seed: int = 0,
    first: int = 0,
    chunk: int | None = None,
) -> Curve:
    """Replace (N, C, *spatial) inputs by the baseline, the most relevant pixels first.

    A small area is good: what matters goes first. `steps` + 1 forward passes an item, never more
    than `chunk` inputs at once (None: `sizes.items_at_once`). `seed` draws the order of equal
    pixels, `first` is the number of the first item. Petsiuk 2018, arXiv:1806.07421, algorithm 1.
    """
    changed = np.broadcast_to(baseline_of(inputs, baseline), inputs.shape)
    places = ranks(heatmaps, seed=seed, first=first)
    return _curve(score, inputs, changed, places, steps, chunk)


def insertion(
    score: Score,
    inputs: Array,
    heatmaps: Array,
    *,
    steps: int = STEPS,
    baseline: Baseline = "blur",
    seed: int = 0,
    first: int = 0,
    chunk: int | None = None,
) -> Curve:
    """Replace the baseline by (N, C, *spatial) inputs, the most relevant pixels first.

    A large area is good: what matters comes first. The rest is that of `deletion`.
    """
    start = np.broadcast_to(baseline_of(inputs, baseline), inputs.shape)
    places = ranks(heatmaps, seed=seed, first=first)
    return _curve(score, start, inputs, places, steps, chunk)


def _curve(
    score: Score, start: Array, end: Array, places: NDArray[np.intp], steps: int, chunk: int | None
) -> Curve:
    items, pixels = places.shape
    if not 1 <= steps <= pixels:
        raise InputError(f"{steps} steps were asked for {pixels} pixels: give 1 to {pixels}")
    counts = np.rint(np.linspace(0, pixels, steps + 1)).astype(np.intp)
    shape = (len(start), start.shape[1], pixels)
    before, after = start.reshape(shape), end.reshape(shape)
    owners = np.repeat(np.arange(items), steps + 1)

    def make(which: Items) -> Array:
        item, step = np.divmod(which, steps + 1)
        replaced = places[item] < counts[step][:, None]
        mixed = np.where(replaced[:, None], after[item], before[item])
        return mixed.reshape(-1, *start.shape[1:])

    scores = in_chunks(score, make, owners, start, chunk)
    return Curve(counts / pixels, scores.reshape(items, steps + 1))
