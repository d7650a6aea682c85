"""How well two maps of one picture agree: the figures of a comparison, as functions of arrays.

Maps are signed or not, of any rank, and finite. No figure is ever NaN: `Agreement.status` says
where one is a convention instead of a measurement.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam import rescale
from gradcam_multi.resize import interpolation_weights
from gradcam_multi.spec import Array

TOP_SHARE = 0.2
"""The share of pixels whose overlap is measured."""

PairStatus = Literal["ok", "one_flat", "flat", "nonfinite"]
"""`ok`; `one_flat`: one of the maps has no peak (no evidence, or every cell counts the same), the
other has; `flat`: neither has; `nonfinite`: one of the models gave NaN or infinity."""

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How well a map agrees with the reference's; docs/compare.md defines each figure.

    `drift` is in [0, 1], `map_difference` relative to the reference's largest value, `pearson` and
    `spearman` in [-1, 1], `overlap` in [0, 1], `peak_shift` in pixels of the reference's input and
    `peak_shift_share` the same as a share of its diagonal. Where `status` is not `ok`: the best
    value of each for `flat`, the worst for `one_flat` and `nonfinite`. `raw` says whether the maps
    were compared on the grid of both, before resizing.
    """

    status: PairStatus
    raw: bool
    drift: float
    map_difference: float
    pearson: float
    spearman: float
    overlap: float
    peak_shift: float
    peak_shift_share: float


@dataclass(frozen=True)
class Field:
    """What part of the reference's input a map lies over.

    `low` and `high` are its corners in pixels of the reference's input, one an axis; pixel i
    covers i to i + 1.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def same(self, other: "Field") -> bool:
        """Whether two are the same part, but for rounding."""
        spans = np.subtract(self.high, self.low)
        differences = np.subtract((self.low, self.high), (other.low, other.high))
        return bool((np.abs(differences) <= 1e-6 * spans).all())


def sample(cam: Array, field: Field, size: tuple[int, ...]) -> tuple[Array, NDArray[np.bool_]]:
    """Return a (*grid) map at the pixels of a (*size) input, and which of these it lies over.

    Half-pixel-centred linear interpolation, clamped at the border of the grid.
    """
    out, seen = np.asarray(cam, np.float32), np.ones(size, np.bool_)
    for axis, (n, low, high) in enumerate(zip(size, field.low, field.high, strict=True)):
        cells, centre = out.shape[axis], np.arange(n) + 0.5
        weights = interpolation_weights((centre - low) * (cells / (high - low)) - 0.5, cells)
        out = np.moveaxis(np.tensordot(weights, out, (1, axis)), 0, axis)
        inside = (centre >= low) & (centre < high)
        seen &= inside.reshape([-1 if other == axis else 1 for other in range(len(size))])
    return out, seen


def agree(
    reference: Array,
    other: Array,
    size: tuple[int, ...],
    fields: tuple[Field, Field],
    *,
    finite: bool = True,
) -> Agreement:
    """Compare two maps (*grid), finite, over the reference's input of (*size) pixels.

    `fields` say where each lies. Maps of one grid over one field are compared raw; others, and the
    overlap of top pixels always, at the pixels that both lie over. `finite` is False where one of
    the models gave NaN or infinity, so that its map stands for nothing.
    """
    raw = reference.shape == other.shape and fields[0].same(fields[1])
    flat = [not rescale(cam[None]).any() for cam in (reference, other)]
    if not finite:
        return _convention("nonfinite", raw, size)
    if any(flat):
        return _convention("flat" if all(flat) else "one_flat", raw, size)
    pixels = [
        sample(cam, field, size) for cam, field in zip((reference, other), fields, strict=True)
    ]
    both = pixels[0][1] & pixels[1][1]
    seen_a, seen_b = (values[both].astype(np.float64) for values, _ in pixels)
    a, b = (
        (cam.ravel().astype(np.float64) for cam in (reference, other)) if raw else (seen_a, seen_b)
    )
    shift = math.dist(peak(reference, fields[0]), peak(other, fields[1]))
    return Agreement(
        status="ok",
        raw=raw,
        drift=moved_share(a, b),
        map_difference=relative_difference(a, b),
        pearson=correlation(a, b),
        spearman=correlation(average_ranks(a), average_ranks(b)),
        overlap=overlap(seen_a, seen_b),
        peak_shift=shift,
        peak_shift_share=shift / math.hypot(*size),
    )


def _convention(status: PairStatus, raw: bool, size: tuple[int, ...]) -> Agreement:
    if status == "flat":
        return Agreement(status, raw, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    return Agreement(status, raw, 1.0, 1.0, 0.0, 0.0, 0.0, math.hypot(*size), 1.0)


def moved_share(a: Vector, b: Vector) -> float:
    """Return the share of a map's evidence that lies elsewhere in the other, in [0, 1].

    Half the sum of |a / sum|a| - b / sum|b||, the total variation distance: 0 for maps that are
    equal but for a factor, 1 for maps without a cell in common. 1 where one is all zero.
    """
    totals = np.abs(a).sum(), np.abs(b).sum()
    if not all(totals):
        return float(any(totals))
    return float(min(1.0, 0.5 * np.abs(a / totals[0] - b / totals[1]).sum()))


def relative_difference(a: Vector, b: Vector) -> float:
    """Return max |b - a| / max |a|; where a is all zero, relative to the largest of b."""
    scale = np.abs(a).max(initial=0) or np.abs(b).max(initial=0)
    return float(np.abs(b - a).max() / scale) if scale else 0.0


def correlation(a: Vector, b: Vector) -> float:
    """Return Pearson's correlation of two vectors; 1 where both are constant, 0 where one is."""
    # Divided by the largest first: squares of very small or very large maps leave float64's range.
    centred = [v / (np.abs(v).max(initial=0) or 1) for v in (a, b)]
    centred = [v - v.mean() for v in centred]
    squares = [float((v * v).sum()) for v in centred]
    if not all(squares):
        return float(not any(squares))
    # One root of both: the correlation of a map with itself is then 1 and not nearly 1.
    product = float((centred[0] * centred[1]).sum()) / math.sqrt(squares[0] * squares[1])
    return float(np.clip(product, -1, 1))


def average_ranks(values: NDArray[Any]) -> Vector:
    """Return the ranks of a vector's values, from 1, equal ones with the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Vector = (last - (counts - 1) / 2)[place.reshape(-1)]
    return ranks


def overlap(a: Vector, b: Vector, share: float = TOP_SHARE) -> float:
    """Return the intersection over union of the top shares of two maps; 1 where both are empty.

    The top share of n values are those not below the ceil(share n)-th largest, ties included, and
    above the smallest: where less than that share is evidence, the rest is not drawn by lot.
    """
    top_a, top_b = _top(a, share), _top(b, share)
    union = np.count_nonzero(top_a | top_b)
    return float(np.count_nonzero(top_a & top_b) / union) if union else 1.0


def _top(values: Vector, share: float) -> NDArray[np.bool_]:
    rank = len(values) - math.ceil(share * len(values))
    top: NDArray[np.bool_] = (values >= np.partition(values, rank)[rank]) & (values > values.min())
    return top


def peak(cam: Array, field: Field) -> tuple[float, ...]:
    """Return where a (*grid) map is largest, in pixels of the reference's input.

    It is the centre of the largest cell, the first of equal ones: linear interpolation is never
    larger between the cells.
    """
    place = np.unravel_index(int(cam.argmax()), cam.shape)
    return tuple(
        low + (index + 0.5) * (high - low) / cells
        for index, cells, low, high in zip(place, cam.shape, field.low, field.high, strict=True)
    )
