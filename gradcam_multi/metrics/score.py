"""What a metric asks of a model: how sure it is of each item's class, for changed inputs."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import InputError
from gradcam_multi.explainer import Explainer, chosen_output
from gradcam_multi.sizes import items_at_once
from gradcam_multi.spec import Array, Inputs, Layout
from gradcam_multi.targets import AnyTarget, class_scores, probability, reads_rows, score_batch

Vector = NDArray[np.float64]
Items = NDArray[np.intp]


class Score(Protocol):
    """A model as the metrics see it; any function of this form will do."""

    def __call__(self, inputs: Array, items: Items) -> Vector:
        """Return (M,) float64 for (M, C, *spatial) float32 inputs.

        `items` (M,) say of which of the batch's N items each is a changed form, and so whose
        target it is scored for.
        """


class ModelScore:
    """The probability of each item's class, by the model that an `Explainer` opened.

    `targets` are the N resolved targets of an explanation. Where one is about no class of a row of
    scores, its own score is taken. `batch_size` bounds how many inputs run at once (None:
    `sizes.items_at_once`). `passes` counts the inputs that went through the model.
    """

    def __init__(
        self, explainer: Explainer, targets: Sequence[AnyTarget], batch_size: int | None = None
    ) -> None:
        self.explainer, self.targets, self.passes = explainer, targets, 0
        self.fixed = fixed_batch(explainer)
        self.batch_size = self.fixed or batch_size

    def __call__(self, inputs: Array, items: Items) -> Vector:
        """Return (M,) float64; see `Score`."""
        size = self.batch_size or items_at_once(inputs, self.explainer.model)
        chunks = (slice(start, start + size) for start in range(0, len(inputs), size))
        return np.concatenate([self._scores(inputs[part], items[part]) for part in chunks])

    def _scores(self, inputs: Array, items: Items) -> Vector:
        count = len(inputs)
        if self.fixed:  # a model for batches of one size: the last is filled up
            inputs = inputs[np.minimum(np.arange(self.fixed), count - 1)]
        model = self.explainer.model
        with model.trace(as_taken(self.explainer, inputs), []) as trace:
            shapes = {name: z.shape for name, z in trace.logits.items()}
            output = chosen_output(self.explainer.output, shapes)
            logits = {name: array[:count] for name, array in trace.logits.items()}
        self.passes += count
        targets = [self.targets[item] for item in items]
        classes = {row: index for row, target in enumerate(targets) if (index := _class(target))}
        layout: Layout = "channels_last" if is_channels_last(self.explainer) else "channels_first"
        scores = score_batch(
            targets, logits, output,
            specs=model.outputs, size=inputs.shape[2:], layout=layout, resolve=False,
        ).scores  # fmt: skip
        if classes:
            activation = next((s.activation for s in model.outputs if s.name == output), None)
            likely = probability(class_scores(logits[output], output), activation)
            for row, found in classes.items():
                scores[row] = likely[row, found[0]]
        return scores


def _class(target: AnyTarget) -> tuple[int] | None:
    """The class of a row of scores that a target is about, if it is about one."""
    index = getattr(target, "index", None) if reads_rows(target) else None
    return (index,) if isinstance(index, int) else None


def fixed_batch(explainer: Explainer) -> int | None:
    """Return how many items the model takes at once, where it says; None where it takes any."""
    inputs = explainer.model.inputs
    return inputs[0].shape[0] if inputs and inputs[0].shape else None


def is_channels_last(explainer: Explainer) -> bool:
    """Whether the model takes channels last; first where it cannot say before a run."""
    inputs = explainer.model.inputs
    return bool(inputs) and inputs[0].layout == "channels_last"


def channels_first(explainer: Explainer, inputs: Inputs) -> Array:
    """Return the one input of a model, as it takes it, as (N, C, *spatial) float32.

    Raises InputError for several inputs, and for one without channels and space.
    """
    if isinstance(inputs, tuple | dict):
        raise InputError(
            f"metrics change one input, (N, C, *spatial), and {len(inputs)} were given: wrap the "
            "model in one that takes the others as constants"
        )
    array = np.asarray(inputs.detach().cpu() if hasattr(inputs, "detach") else inputs, np.float32)
    if array.ndim < 3 or not len(array):
        raise InputError(
            f"metrics change pixels, and the input has the shape {array.shape}: give "
            "(N, C, *spatial), or channels last where the model has them so"
        )
    return np.moveaxis(array, -1, 1) if is_channels_last(explainer) else array


def as_taken(explainer: Explainer, inputs: Array) -> Array:
    """Return (N, C, *spatial) inputs in the model's own layout."""
    if is_channels_last(explainer):
        return np.ascontiguousarray(np.moveaxis(inputs, 1, -1))
    return inputs


def in_chunks(
    score: Score, make: Callable[[Items], Array], items: Items, inputs: Array, size: int | None
) -> Vector:
    """Score inputs that are made a chunk at a time, so that never more than `size` exist.

    `make` gets positions in `items` and returns variants of `inputs` there. None for `size`:
    `sizes.items_at_once`.
    """
    size = size or items_at_once(inputs)
    parts = []
    for start in range(0, len(items), size):
        places = np.arange(start, min(start + size, len(items)))
        parts.append(score(make(places), items[places]))
    return np.concatenate(parts)


def item_generators(seed: int, first: int, count: int) -> list[np.random.Generator]:
    """Return a generator for each of `count` items, the first of which has the number `first`.

    An item's draws depend on its number alone, not on the batch in which it comes.
    """
    return [np.random.default_rng((seed, first + place)) for place in range(count)]
