"""The rows of an audit: what is recorded of each picture, and of each that failed."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradcam_multi.audit.figures import CORNERS, Rectangle, box_shares, figures
from gradcam_multi.audit.items import Decoded
from gradcam_multi.audit.schema import TOP, Grid, half_maps, tensor_column
from gradcam_multi.errors import UnknownClassError
from gradcam_multi.explanation import Explanation
from gradcam_multi.labels import find_label
from gradcam_multi.targets import Binary, ClassScore, class_scores

Columns = dict[str, Any]


class Reader:
    """What rows take from an explanation, and from the labels of a source.

    `yes_or_no` is for an output of one unit whose answer is yes where its logit is above 0: class
    1, and class 0 else.
    """

    def __init__(
        self, labels: Sequence[str] | None, grid: Grid, *, yes_or_no: bool = False
    ) -> None:
        self.labels = labels
        self.grid = grid
        self.yes_or_no = yes_or_no
        self._known: dict[str, int | None] = {}

    def scores(self, explanation: Explanation) -> NDArray[np.float64]:
        """Return (N, classes) logits; raise TargetError where the output is no row of them."""
        logits = class_scores(explanation.logits, explanation.output)
        return np.concatenate([-logits, logits], 1) if self.yes_or_no else logits

    def probabilities(self, explanation: Explanation) -> NDArray[np.float64]:
        """Return (N, classes) probabilities of the classes of `scores`."""
        p = explanation.class_probabilities
        return np.concatenate([1 - p, p], 1) if self.yes_or_no else p

    def target(self, target: Any) -> int | None:
        """Return the class that a resolved target is about, None for none."""
        if self.yes_or_no and isinstance(target, Binary):
            return int(target.positive)
        index: int | None = getattr(target, "index", None)
        return index

    def label_index(self, label: str | None, classes: int) -> int | None:
        """Return the class that a label names, or whose index it is; None where it is no class."""
        if label is None:
            return None
        if label not in self._known:
            self._known[label] = self._find(label)
        index = self._known[label]
        if classes == 1:  # a value, not a class
            return None
        return index if index is not None and 0 <= index < classes else None

    def _find(self, label: str) -> int | None:
        try:
            return find_label(label, self.labels)
        except UnknownClassError:
            return int(label) if label.lstrip("-").isdecimal() else None


class _Batch:
    """The pictures of a batch that could be read, and what was found of them."""

    def __init__(self, reader: Reader, decoded: Sequence[Decoded], found: Explanation) -> None:
        self.reader = reader
        self.pictures = [each for each in decoded if each.geometry is not None]
        self.found = found
        size = found.size
        self.size = size[0], size[1]

    @cached_property
    def logits(self) -> NDArray[np.float64]:
        return self.reader.scores(self.found)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        return self.reader.probabilities(self.found)

    def classes(self) -> Columns:
        """The highest classes, and whether the first is the label's."""
        logits = self.logits
        p = self.probabilities
        order = np.argsort(-np.nan_to_num(logits, nan=-np.inf), axis=1, kind="stable")[:, :TOP]
        labels = [
            self.reader.label_index(each.item.label, logits.shape[1]) for each in self.pictures
        ]
        return {
            "top5": order.tolist(),
            "top5_scores": np.take_along_axis(logits, order, 1).tolist(),
            "top5_probabilities": np.take_along_axis(p, order, 1).tolist(),
            "correct": [
                None if label is None else bool(label == top)
                for label, top in zip(labels, order[:, 0], strict=True)
            ],
        }

    def target(self) -> Columns:
        """What was explained, how, and what the map is worth."""
        n = len(self.found)
        classes = [self.reader.target(each) for each in self.found.targets]
        return {
            "target": classes,
            "target_name": [self.found.name(i) for i in range(n)],
            "score": self.found.scores,
            "probability": self.target_probability(classes),
            "layer": [self.found.layer] * n,
            "method": [self.found.method] * n,
            "status": list(self.found.status),
        }

    def target_probability(self, classes: Sequence[int | None]) -> Any:
        """(N,) the probability of what was explained; the target's own where it is no class's."""
        if all(type(each) is ClassScore for each in self.found.targets):
            return self.probabilities[np.arange(len(classes)), np.array(classes, np.intp)]
        return self.found.probabilities

    def places(self) -> Columns:
        """Where the picture's part that the model saw is, and where in it the evidence lies."""
        views = np.array([each.geometry.box for each in self.pictures])  # type: ignore[union-attr]
        said = figures(self.found.cam, self.size)
        sure = np.array([status == "ok" for status in self.found.status])
        extent = views[:, 2:] - views[:, :2]
        row, column = np.where(sure[:, None], views[:, :2] + said.peaks * extent, np.nan).T
        boxes = [each.item.box for each in self.pictures]
        shares = [_share_of(box, view) for box, view in zip(boxes, views, strict=True)]
        return {
            "view": list(views),
            "peak_row": row,
            "peak_column": column,
            "peak_in_box": [
                None if box is None or np.isnan(r) else _holds(box, r, c)
                for box, r, c in zip(boxes, row, column, strict=True)
            ],
            "box_energy": box_shares(self.found.cam, self.size, shares),
            "border_energy": said.border,
            **{f"{name}_energy": said.corners[name] for name in CORNERS},
            "entropy": said.entropy,
        }


def rows_of(
    reader: Reader,
    schema: Any,
    decoded: Sequence[Decoded],
    explained: Sequence[Explanation],
    first: int,
) -> Any:
    """Return a table with one row a picture, in their order, the first with this index.

    `explained` is the target's explanation of those that could be read, and then one for each of
    the highest classes whose maps are kept; nothing where none could be read.
    """
    n = len(decoded)
    good = [row for row, each in enumerate(decoded) if each.geometry is not None]
    missing = np.ones(n, np.bool_)
    missing[good] = False
    classes = reader.scores(explained[0]).shape[1] if explained else 1 << 31
    columns: Columns = {
        "index": np.arange(first, first + n),
        "path": [each.item.path for each in decoded],
        "label": [each.item.label for each in decoded],
        "label_index": [reader.label_index(each.item.label, classes) for each in decoded],
        "box": [each.item.box for each in decoded],
        "height": [each.geometry.size[0] if each.geometry else None for each in decoded],
        "width": [each.geometry.size[1] if each.geometry else None for each in decoded],
        "error": [each.error for each in decoded],
    }
    if explained:
        batch = _Batch(reader, decoded, explained[0])
        for name, values in {**batch.classes(), **batch.target(), **batch.places()}.items():
            columns[name] = _spread(values, good, n)
    maps = {"map": np.zeros((n, *reader.grid), np.float16)}
    scale = np.zeros(n, np.float32)
    top = len(explained) - 1
    if explained:
        maps["map"][good], scale[good] = half_maps(explained[0].cam)
    columns["map_scale"] = pa.array(scale, mask=missing)
    if "top_maps" in schema.names:
        count = schema.field("top_maps").type.shape[0]
        maps["top_maps"] = np.zeros((n, count, *reader.grid), np.float16)
        scales = np.zeros((n, count), np.float32)
        if top > 0:
            stacked = np.stack([each.cam for each in explained[1:]], 1)
            maps["top_maps"][good], scales[good] = half_maps(stacked)
        columns["top_maps_scale"] = [
            None if gone else s for s, gone in zip(scales, missing, strict=True)
        ]
    arrays = []
    for field in schema:
        if field.name in maps:
            arrays.append(tensor_column(maps[field.name], missing))
        else:
            # NaN is for arithmetic; a table says null.
            arrays.append(
                pa.array(columns.get(field.name, [None] * n), field.type, from_pandas=True)
            )
    return pa.Table.from_arrays(arrays, schema=schema)


def _spread(values: Any, good: Sequence[int], n: int) -> list[Any]:
    """Lay the values of the pictures that could be read among those that could not."""
    found: list[Any] = [None] * n
    for row, value in zip(good, values, strict=True):
        found[row] = value
    return found


def _share_of(box: Any, view: NDArray[np.float64]) -> Rectangle | None:
    """A box in a picture's pixels, as shares of the sides of what the model saw."""
    if box is None:
        return None
    left, top, right, bottom = box
    height, width = view[2:] - view[:2]
    return (
        (top - view[0]) / height,
        (left - view[1]) / width,
        (bottom - view[0]) / height,
        (right - view[1]) / width,
    )


def _holds(box: Any, row: float, column: float) -> bool:
    left, top, right, bottom = box
    return bool(left < column < right and top < row < bottom)
