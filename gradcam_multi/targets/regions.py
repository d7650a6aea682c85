"""A target over a region of a map of scores: semantic segmentation, and any other dense output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import TargetError
from gradcam_multi.spec import Layout
from gradcam_multi.targets.classes import class_name, settled_class
from gradcam_multi.targets.protocol import Item, Vector


@dataclass(frozen=True, eq=False)
class RegionScore:
    """The sum of a class's logits over a region of a map (Seg-Grad-CAM, Vinogradova 2020).

    `index` is a class, by index or name; left out, the one predicted for most of the region.
    `region` is "predicted", the cells where the class is the highest; a mask, of the output's own
    grid or of the input's size (then taken at the nearest cells), other than 0 where it counts; or
    one cell of the output's grid, (row, column). Where the class is predicted nowhere in an item,
    its map is zero. `output` names the output.

    A head of one channel says yes or no: `positive=False` explains the "no", its logits negated,
    and the predicted region is where the logit is above 0, or not. `layout` says where the
    channels are: left out, where the input has them; an output without an axis for them, of as
    many axes as the input has spatial ones, is one channel.
    """

    index: int | str | None = None
    region: Any = "predicted"
    output: str | None = None
    positive: bool = True
    layout: Layout | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output's name, or () for the one that is explained."""
        return () if self.output is None else (self.output,)

    def resolve_item(self, item: Item) -> Self:
        """Settle class and region, a mask of the output's grid; raise TargetError for no such."""
        scores, _ = self._scores(item)
        count, grid = len(scores), scores.shape[1:]
        mask = None if _is_predicted(self.region) else self._mask(grid, item.size)
        index = self.index
        if index is None:
            best = np.nan_to_num(scores, nan=-np.inf).argmax(0)
            index = int(np.bincount(best[... if mask is None else mask].ravel()).argmax())
        elif count > 1 or not isinstance(index, str):
            index = settled_class(index, count, item.labels)
        else:
            index = 0  # of one channel, whatever it is called
        if mask is None:
            mask = self._predicted(scores, index)
        return replace(self, index=index, region=mask)

    def score_item(self, item: Item) -> tuple[float, Mapping[str, Vector]]:
        """Return the sum, and one in the region and zero elsewhere."""
        if not isinstance(self.index, int) or not isinstance(self.region, np.ndarray):
            return self.resolve_item(item).score_item(item)
        scores, axis = self._scores(item)
        sign = 1.0 if self.positive else -1.0
        derivative = np.zeros_like(scores)
        derivative[self.index][self.region] = sign
        total = sign * float(scores[self.index][self.region].sum())
        placed = derivative[0] if axis is None else np.moveaxis(derivative, 0, axis)
        return total, {item.called(self.output): placed}

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return the class's name, and how large the region is."""
        where = ""
        if isinstance(self.region, np.ndarray):
            cells = int(np.count_nonzero(self.region))
            where = f" in {cells} cell{'s' * (cells != 1)}"
        if not self.positive:
            return f"negative{where}"
        if self.index is None or isinstance(self.index, str):
            return f"{self.index or 'top class'}{where}"
        return f"{class_name(self.index, labels)}{where}"

    def _scores(self, item: Item) -> tuple[Vector, int | None]:
        """(C, *grid) logits of the item, and the axis of the channels; None where there is none."""
        name = item.called(self.output)
        found = item[name]
        if self.layout is None and found.ndim == len(item.size) > 0:
            scores, axis = found[None], None
        else:
            axis = -1 if (self.layout or item.layout) == "channels_last" else 0
            scores = np.moveaxis(found, axis, 0) if found.ndim else found
        if scores.ndim < 2:
            raise TargetError(
                f"a region of output {name!r} was asked for, which has the shape {found.shape} an "
                "item: a region needs a map, (C, *grid); name one with output=..."
            )
        if not self.positive and len(scores) > 1:
            raise TargetError(
                f"positive=False was asked for; output {name!r} has {len(scores)} channels, not "
                "one: give the index of the class for the background"
            )
        return scores, axis

    def _predicted(self, scores: Vector, index: int) -> NDArray[np.bool_]:
        if len(scores) > 1:
            return np.asarray(np.nan_to_num(scores, nan=-np.inf).argmax(0) == index)
        return np.asarray(scores[0] > 0 if self.positive else scores[0] <= 0)

    def _mask(self, grid: tuple[int, ...], size: tuple[int, ...]) -> NDArray[np.bool_]:
        given = np.asarray(self.region)
        if isinstance(self.region, tuple) and given.ndim == 1 and len(given) == len(grid):
            cell = tuple(int(n) for n in given)
            if not all(0 <= n < most for n, most in zip(cell, grid, strict=True)):
                raise TargetError(f"cell {cell} was asked for; the output's grid is {grid}")
            mask = np.zeros(grid, np.bool_)
            mask[cell] = True
            return mask
        if given.dtype.kind not in "biuf" or given.shape not in (grid, size):
            raise TargetError(
                f"a region {_shown(self.region)} was asked for; the output's grid is {grid}, the "
                f"input's size {size}: give 'predicted', a mask of either size, or a cell as a "
                "tuple"
            )
        mask = nearest(given != 0, grid)
        if given.any() and not mask.any():
            raise TargetError(
                f"the mask marks no cell of the output's grid {grid}: give one that is larger"
            )
        return mask


def nearest(mask: NDArray[np.bool_], size: Sequence[int]) -> NDArray[np.bool_]:
    """Resize a mask to a size of the same rank: each cell takes what is at its centre."""
    for axis, (have, want) in enumerate(zip(mask.shape, size, strict=True)):
        centres = (2 * np.arange(want) + 1) * have // (2 * want)
        mask = mask.take(centres, axis)
    return mask


def _is_predicted(region: Any) -> bool:
    if isinstance(region, str) and region != "predicted":
        raise TargetError(
            f"region {region!r} was asked for: give 'predicted', a mask, or a cell as a tuple"
        )
    return isinstance(region, str)


def _shown(region: Any) -> str:
    return f"of the shape {np.shape(region)}" if np.ndim(region) > 1 else repr(region)
