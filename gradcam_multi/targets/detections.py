"""A target about one box of a detector, before overlapping boxes are suppressed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from gradcam_multi.errors import TargetError
from gradcam_multi.targets.classes import class_name, settled_class
from gradcam_multi.targets.protocol import Item, Vector

BoxForm = Literal["xyxy", "yxyx", "xywh", "cxcywh"]


@dataclass(frozen=True, eq=False)
class BoxHead:
    """Where one scale of a detector keeps its proposals.

    `scores` names the output with a score a class; None is the one explained. `boxes` names that
    with four numbers a proposal; None is the same one, its first four entries then the box and the
    next the classes. `boxes` may also be an array (P, 4), or a function from the `Item` to one:
    that decodes offsets from anchors. `form` says what the four are: corners, or a corner or the
    centre with width and height. `channel_axis` is the axis, of one item, of a proposal's entries;
    the others count the proposals. `anchors` is how many proposals share a cell there, one after
    the other. `objectness` is the entry that is a factor of all classes, in outputs that have one;
    `first_class` is that of class 0, by default the one behind box and objectness.
    """

    scores: str | None = None
    boxes: Any = None
    form: BoxForm = "xyxy"
    channel_axis: int = -1
    anchors: int = 1
    first_class: int | None = None
    objectness: int | None = None

    def proposals(self, item: Item) -> tuple[Vector, Vector]:
        """Return boxes (P, 4) as corners x1, y1, x2, y2, and scores (P, classes)."""
        rows = self._rows(item[item.called(self.scores)], item.called(self.scores))
        scores = rows[:, self._first() :]
        if self.objectness is not None:
            scores = scores * rows[:, self.objectness, None]
        if self.boxes is None:
            found = rows[:, :4]
        elif isinstance(self.boxes, str):
            found = self._rows(item[item.called(self.boxes)], self.boxes)[:, :4]
        else:
            found = np.asarray(self.boxes(item) if callable(self.boxes) else self.boxes, np.float64)
        if found.shape != (len(scores), 4) or not scores.shape[1]:
            raise TargetError(
                f"boxes {found.shape} and scores {scores.shape} were found for output "
                f"{item.called(self.scores)!r}: they need (P, 4) and (P, classes); check "
                "channel_axis, anchors and first_class of BoxHead"
            )
        return corners(found, self.form), scores

    def derivative(self, item: Item, chosen: Any, index: int) -> Vector:
        """Return that of the sum of a class's scores over the chosen proposals, (P,) of bool."""
        found = item[item.called(self.scores)]
        rows = self._rows(found, item.called(self.scores))
        slopes, column = np.zeros_like(rows), self._first() + index
        slopes[chosen, column] = 1
        if self.objectness is not None:
            slopes[chosen, column] = rows[chosen, self.objectness]
            slopes[chosen, self.objectness] = rows[chosen, column]
        last = np.moveaxis(found, self.channel_axis, -1)
        return np.moveaxis(slopes.reshape(last.shape), -1, self.channel_axis)

    def _first(self) -> int:
        if self.first_class is not None:
            return self.first_class
        start = 4 if self.boxes is None else 0
        return start + (self.objectness == start)

    def _rows(self, found: Vector, name: str) -> Vector:
        """(P, entries): one row a proposal, the anchors of a cell one after the other."""
        axis, rank = self.channel_axis, found.ndim
        if rank < 2 or not -rank <= axis < rank or found.shape[axis] % self.anchors:
            raise TargetError(
                f"proposals were looked for in output {name!r}, which has the shape {found.shape} "
                f"an item, with {self.anchors} anchors along axis {axis}: check channel_axis and "
                "anchors of BoxHead"
            )
        last = np.moveaxis(found, axis, -1)
        return last.reshape(-1, found.shape[axis] // self.anchors)


@dataclass(frozen=True, eq=False)
class BoxScore:
    """The sum of a class's scores over the proposals that match a box, at every scale.

    `box` is x1, y1, x2, y2 in the units of the model's boxes; left out, that of the proposal with
    the highest score. `index` is the class, by index or name; left out, the one that a matching
    proposal gives the highest score. A proposal matches where its intersection over union with the
    box is at least `overlap`. `heads` say where the model keeps its proposals. Which proposals
    match is settled first: where the box lies is not differentiated, what it is called is.
    """

    box: Sequence[float] | None = None
    index: int | str | None = None
    heads: BoxHead | Sequence[BoxHead] = BoxHead()
    overlap: float = 0.5

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs with scores; () where it is the one that is explained."""
        names = [head.scores for head in self._heads()]
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def resolve_item(self, item: Item) -> Self:
        """Settle box and class; raise TargetError where no proposal matches the box."""
        found = [head.proposals(item) for head in self._heads()]
        boxes = np.concatenate([each for each, _ in found])
        counts = {scores.shape[1] for _, scores in found}
        if len(counts) != 1:
            raise TargetError(
                f"the heads have {sorted(counts)} classes: check first_class of each BoxHead"
            )
        scores = np.nan_to_num(np.concatenate([each for _, each in found]), nan=-np.inf)
        index = self.index
        if index is not None:
            index = settled_class(index, scores.shape[1], item.labels)
        asked = scores if index is None else scores[:, [index]]
        if self.box is None:
            box = boxes[asked.max(1).argmax()]
        else:
            box = np.asarray(self.box, np.float64)
            if box.shape != (4,):
                raise TargetError(f"box {self.box!r} was asked for: give x1, y1, x2, y2")
        overlaps = intersection_over_union(boxes, box)
        matching = overlaps >= self.overlap
        if not matching.any():
            raise TargetError(
                f"box {_shown(box)} was asked for; the closest of {len(boxes)} proposals is "
                f"{_shown(boxes[overlaps.argmax()])}, intersection over union "
                f"{overlaps.max():.2f}: check the units and BoxHead's form, or lower "
                f"overlap={self.overlap:g}"
            )
        if index is None:
            index = int(scores[matching].max(0).argmax())
        return replace(self, box=tuple(box.tolist()), index=index)

    def score_item(self, item: Item) -> tuple[float, Mapping[str, Vector]]:
        """Return the sum of scores, and its derivatives by the heads' outputs."""
        if self.box is None or not isinstance(self.index, int):
            return self.resolve_item(item).score_item(item)
        total = 0.0
        derivatives: dict[str, Vector] = {}
        for head in self._heads():
            boxes, scores = head.proposals(item)
            matching = intersection_over_union(boxes, np.asarray(self.box)) >= self.overlap
            total += float(scores[matching, self.index].sum())
            name, slope = item.called(head.scores), head.derivative(item, matching, self.index)
            derivatives[name] = derivatives[name] + slope if name in derivatives else slope
        return total, derivatives

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return the class's name and the box."""
        name = self.index if isinstance(self.index, str) else "top class"
        if isinstance(self.index, int):
            name = class_name(self.index, labels)
        return f"{name} in {'the top box' if self.box is None else _shown(self.box)}"

    def _heads(self) -> tuple[BoxHead, ...]:
        return (self.heads,) if isinstance(self.heads, BoxHead) else tuple(self.heads)


def corners(boxes: Vector, form: BoxForm) -> Vector:
    """Return (P, 4) boxes as x1, y1, x2, y2."""
    a, b, c, d = boxes.T
    if form == "xyxy":
        return boxes
    if form == "yxyx":
        return np.stack([b, a, d, c], 1)
    if form == "xywh":
        return np.stack([a, b, a + c, b + d], 1)
    if form == "cxcywh":
        return np.stack([a - c / 2, b - d / 2, a + c / 2, b + d / 2], 1)
    raise TargetError(f"boxes of the form {form!r} were named: give xyxy, yxyx, xywh or cxcywh")


def intersection_over_union(boxes: Vector, box: Vector) -> Vector:
    """Return (P,) the common area of (P, 4) boxes and one, over the area of both; 0 for none."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = np.maximum(sides, 0).prod(1)
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(1)
    union = areas + np.maximum(box[2:] - box[:2], 0).prod() - common
    found: Vector = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found


def _shown(box: Any) -> str:
    return f"({', '.join(f'{float(n):.4g}' for n in box)})"
