"""Targets of a batch: one an item, resolved and scored, their derivatives put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import TargetCountError, TargetError, suggest
from gradcam_multi.spec import Array, Layout, TensorSpec
from gradcam_multi.targets.classes import ClassScore, TopClass
from gradcam_multi.targets.protocol import AnyTarget, Item, ItemTarget, Vector, reads_rows


@dataclass(frozen=True)
class Scored:
    """A batch of N items scored: `targets` resolved, `scores` (N,) float64.

    `cotangents` are the derivatives, float32 of the outputs' shapes, by name. `finite` (N,) says
    whether an item's are: where not, they are zero.
    """

    targets: tuple[AnyTarget, ...]
    scores: Vector
    cotangents: dict[str, Array]
    finite: NDArray[np.bool_]


def as_targets(target: Any, count: int) -> list[AnyTarget]:
    """Return one target an item from what a user gave: None, an index, a name, a target, or a
    sequence of these of the batch's length.

    Raises TargetCountError where a sequence has another length, TargetError for anything else.
    """
    single = _as_target(target)
    if single is not None:
        return [single] * count
    if isinstance(target, np.ndarray | Sequence) and np.ndim(target) <= 1:
        if len(target) != count:
            raise TargetCountError(
                f"{len(target)} targets were given for {count} item{'s' * (count != 1)}: "
                "give one for all, or one for each"
            )
        return [_checked_target(entry) for entry in target]
    return [_checked_target(target)]


def score_batch(
    targets: Sequence[AnyTarget],
    logits: Mapping[str, Array],
    output: str,
    *,
    specs: Sequence[TensorSpec] = (),
    labels: Sequence[str] | None = None,
    size: tuple[int, ...] = (),
    layout: Layout = "channels_first",
    resolve: bool = True,
) -> Scored:
    """Score each item of a batch by its target, reading (N, ...) `logits` by the output's name.

    `output` is the one that is explained; `specs` say the outputs' activations; the rest is that
    of `Item`. With `resolve=False` the targets are resolved ones, scored on what other inputs
    give: box, region and class stay those of the run that they were resolved on. Raises
    TargetError where a target does not fit.
    """
    activations = {spec.name: spec.activation for spec in specs}
    rows = class_scores(logits[output], output) if _read_rows(targets) else np.empty(0)
    resolved: list[AnyTarget] = []
    scores = np.zeros(len(targets))
    cotangents: dict[str, Array] = {}
    finite = np.ones(len(targets), np.bool_)
    for i, target in enumerate(targets):
        derivatives: Mapping[str, Vector]
        if reads_rows(target):
            target = target.resolve(rows[i], labels) if resolve else target
            scores[i], derivative = target.score(rows[i], activations.get(output))
            derivatives = {output: derivative}
        else:
            item = Item(
                {name: array[i] for name, array in logits.items()},
                output,
                activations=activations,
                labels=labels,
                size=size,
                layout=layout,
            )
            of_item = cast(ItemTarget, target)
            target = of_item = of_item.resolve_item(item) if resolve else of_item
            scores[i], derivatives = of_item.score_item(item)
        resolved.append(target)
        finite[i] = all(np.isfinite(slope).all() for slope in derivatives.values())
        for name, slope in derivatives.items():
            if name not in cotangents:
                cotangents[name] = np.zeros(logits[name].shape, np.float32)
            if finite[i]:
                cotangents[name][i] = slope.reshape(logits[name].shape[1:])
    return Scored(tuple(resolved), scores, cotangents, finite)


def outputs_read(targets: Sequence[AnyTarget]) -> tuple[str, ...]:
    """Return the outputs that targets name; () where one of them reads the explained one."""
    named = [getattr(target, "outputs", ()) for target in targets]
    return tuple(dict.fromkeys(n for names in named for n in names)) if all(named) else ()


def chosen_output(
    asked: str | None, names: Sequence[str] | Mapping[str, tuple[int | None, ...] | None]
) -> str:
    """Return the output asked for; else the one that scores classes, as far as that is clear.

    That is the one called `logits`, then `out`, then the only one of rank 2, (N, classes), then
    the only one at all. In a tuple, whose outputs have no names but their positions, the first of
    rank 2 is taken: others behind it are commonly auxiliary.

    `names` maps to shapes, as far as they are known. Raises TargetError, with names and shapes,
    where the model returns no such output, or where it is not clear which one is meant.
    """
    shapes = names if isinstance(names, Mapping) else dict.fromkeys(names)
    found = ", ".join(
        f"{name} {shapes[name] or ''}".strip().replace("None", "N") for name in shapes
    )
    if asked is not None:
        if asked not in shapes:
            raise TargetError(
                f"output {asked!r} was asked for; the model returns {found}{suggest(asked, shapes)}"
            )
        return asked
    rows = [name for name, shape in shapes.items() if shape is not None and len(shape) == 2]
    positional = all(name.isdecimal() for name in shapes)
    for usual in ("logits", "out"):
        if usual in shapes:
            return usual
    if len(rows) == 1 or (rows and positional):
        return rows[0]
    if len(shapes) == 1:
        return next(iter(shapes))
    raise TargetError(
        f"no output was named, and the model returns {found or 'none'}: say which to explain with "
        "output=... (--model-output)"
    )


def class_scores(logits: NDArray[Any], output: str) -> Vector:
    """Return (N, ...) logits as (N, classes) float64, axes of extent one dropped.

    Raises TargetError where more than one axis is left: such an output is a map.
    """
    axes = [n for n in logits.shape[1:] if n != 1]
    if len(axes) > 1:
        raise TargetError(
            f"output {output!r} has the shape {logits.shape}: a class target needs (N, classes), "
            "one score a class; for a map, boxes or tokens give RegionScore, BoxScore or "
            "TokenLogProbability"
        )
    return logits.reshape(len(logits), axes[0] if axes else 1).astype(np.float64)


def _read_rows(targets: Sequence[AnyTarget]) -> bool:
    return any(map(reads_rows, targets))


def _as_target(value: Any) -> AnyTarget | None:
    if value is None:
        return TopClass()
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, str | int | np.integer):
        return ClassScore(value if isinstance(value, str) else int(value))
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu":
        return ClassScore(int(value))
    return value if reads_rows(value) or isinstance(value, ItemTarget) else None


def _checked_target(value: Any) -> AnyTarget:
    target = _as_target(value)
    if target is None:
        raise TargetError(
            f"target {value!r} is a {type(value).__name__}: give a class index, a class name "
            "(with labels), a target such as ClassScore(3), or a list with one of these an item"
        )
    return target
