"""A batch under explanation, for methods that run its model again; implements `cam.Probe`."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil

import numpy as np
from numpy.typing import ArrayLike

from gradcam_multi.blocks import attended_blocks, laid_out, token_blocks
from gradcam_multi.cam.normalize import Status
from gradcam_multi.cam.probe import Attended, FullGradients, Make, Scores
from gradcam_multi.contributions import full_gradients
from gradcam_multi.errors import InputError, TargetError
from gradcam_multi.image_input import ImageInput
from gradcam_multi.scoring import Score
from gradcam_multi.sizes import image_sizes, items_at_once
from gradcam_multi.spec import Array, Block, InputName, Inputs, Layer, Model, ReluRule, Trace
from gradcam_multi.targets import ClassScore, reads_rows


@dataclass(frozen=True)
class Settings:
    """What a user says of methods that run the model again.

    `seed` is that of their random numbers, `samples` how many masks or noisy copies they take
    (None: the method's own number), `batch_size` how many items run at once at most. `baseline`
    is the image that says nothing: a number, or an array that broadcasts to one item's.
    """

    seed: int = 0
    samples: int | None = None
    batch_size: int | None = None
    baseline: ArrayLike = 0.0

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples < 1:
            raise InputError(f"samples={self.samples} was asked for: give at least 1")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size {self.batch_size} was asked for: give at least 1")


class ModelProbe:
    """One run of a model, and the means to run it again; see `cam.Probe`.

    `traced` opens a run of the explained layer for other inputs, `listed` are the model's layers,
    for methods that look for others. `at_input` says that the run kept the image instead of the
    layer, and by which rule its gradient passes ReLU; `facts` are those found true of the
    network. `passes` counts the forward passes an item so far; a run from the layer on is one.
    """

    def __init__(
        self,
        model: Model,
        inputs: Inputs,
        trace: Trace,
        layer: str,
        score: Score,
        traced: Callable[[Inputs], AbstractContextManager[Trace]],
        settings: Settings,
        listed: Sequence[Layer] = (),
        at_input: ReluRule | None = None,
        facts: set[Hashable] | None = None,
    ) -> None:
        self._listed, self._at_input = listed, at_input
        self._facts = set() if facts is None else facts
        self._model, self._inputs, self._trace = model, inputs, trace
        self._layer, self._score, self._traced = layer, score, traced
        self.seed, self.samples = settings.seed, settings.samples
        self._asked, self._baseline = settings.batch_size, settings.baseline
        self.passes = 1
        self.attribution: Array | None = None

    @property
    def activations(self) -> Array:
        """The layer's result, (N, C, *grid)."""
        return self._activations

    @cached_property
    def _activations(self) -> Array:
        return self._trace.activations[0]

    @cached_property
    def logits(self) -> Scores:
        """The explained output, (N, classes)."""
        return self._score.logits(self._trace)

    @property
    def classes(self) -> list[int]:
        """The class that each item's target is about; TargetError where one is about none."""
        found = [
            getattr(target, "index", None) if reads_rows(target) else None
            for target in self._score.targets
        ]
        for target, index in zip(self._score.targets, found, strict=True):
            if not isinstance(index, int):
                raise TargetError(
                    f"the method compares a class with others, and target {target!r} is about "
                    "none: give a class, or another method"
                )
        return [int(index) for index in found if index is not None]

    @property
    def of_classes(self) -> bool:
        """Whether every target is the logit of a class, and no function of it or of several."""
        return all(type(target) is ClassScore for target in self._score.targets)

    @cached_property
    def _gradients(self) -> Array:
        return self._trace.vjp(self._score.first.cotangents)[0]

    def gradients(self) -> Array:
        """Return the derivative of the scores with respect to the layer."""
        return self._gradients

    def pulled(self, cotangents: Scores) -> Array:
        """Multiply (N, classes) cotangents of the logits back to the layer."""
        shape = self._trace.logits[self._score.output].shape
        given = cotangents.astype(np.float32).reshape(shape)
        return self._trace.vjp({self._score.output: given})[0]

    @property
    def image_name(self) -> str:
        """The name of the input that the map lies over."""
        return self._image.name

    @property
    def image(self) -> Array:
        """The input that the map lies over, (N, channels, *size)."""
        return self._image.array

    @property
    def baseline(self) -> Array:
        """The image that says nothing, (channels, *size)."""
        return self._image.like_item(self._baseline)

    def attributed(self, status: Sequence[Status]) -> Array | None:
        """Return the attribution that the method left, if any; 0 for items that are nonfinite."""
        if self.attribution is not None:
            self.attribution[[found == "nonfinite" for found in status]] = 0
        return self.attribution

    @cached_property
    def _image(self) -> ImageInput:
        return ImageInput(self._inputs, self._model.inputs, self.activations.ndim - 2)

    def once(self, fact: str, tried: Callable[[], bool]) -> None:
        """Try whether a fact is true at this layer, unless it was found so before.

        It is remembered of scores of classes alone: another target is another function.
        """
        known = (fact, self._layer, self._score.output, self.activations.shape[1:])
        if not self.of_classes:
            tried()
        elif known not in self._facts and tried():
            self._facts.add(known)

    def gradients_at(self, count: int, make: Make) -> Iterator[Array]:
        """Yield the derivative of the scores with respect to the layer, for variants of the image.

        One array (N, C, *grid) for each of `count` variants.
        """
        for variants, gradients in self._varied(count, make, self._traced):
            yield from gradients.reshape(variants, -1, *gradients.shape[1:])

    def image_gradients(
        self, count: int = 1, make: Make | None = None, *, relu: ReluRule = "plain"
    ) -> Array:
        """Return the derivative of the scores with respect to the image, (N, channels, *size).

        With `make`, it is the mean over `count` variants of the image.
        """
        self._image.check_floating()
        if make is None and relu == self._at_input:
            return self._image.channels_first(self.gradients())

        def traced(inputs: Inputs) -> AbstractContextManager[Trace]:
            return self._model.trace(inputs, [InputName(self._image.name)], relu=relu)

        total: Scores | float = 0.0
        for variants, gradients in self._varied(count, make, traced):
            found = self._image.channels_first(gradients)
            parts = found.reshape(variants, -1, *found.shape[1:])
            total = total + parts.sum(0, dtype=np.float64)
        mean: Array = np.asarray(total / count, np.float32)
        return mean

    def _varied(
        self,
        count: int,
        make: Make | None,
        traced: Callable[[Inputs], AbstractContextManager[Trace]],
    ) -> Iterator[tuple[int, Array]]:
        """Run on variants of the image, or on itself; yield how many, and their gradients."""
        for numbers in self._groups(count):
            variants, inputs = len(numbers), self._inputs
            self.passes += variants
            if make is not None:
                made = make(numbers)
                inputs = self._image.replaced(made.reshape(-1, *made.shape[2:]), variants)
            with traced(inputs) as trace:
                gradients = trace.vjp(self._score.cotangents(trace, variants))[0]
            yield variants, gradients

    def full_gradients(self) -> FullGradients:
        """Return what the image, further inputs, and the layers' biases contribute to the score."""
        self._image.check_floating()
        self.passes += 1
        output, cotangents = self._score.output, self._score.cotangents
        return full_gradients(self._model, self._inputs, self._image, output, cotangents)

    def attended(self) -> Iterator[Attended]:
        """Yield, block by block, the gradient at the attention's result, and the values."""
        self.passes += 1 + len(self._blocks)
        derivatives = self._score.derivatives
        return attended_blocks(self._model, self._inputs, self._blocks, derivatives)

    @cached_property
    def _blocks(self) -> tuple[Block, ...]:
        return token_blocks(self._listed, self._score.output)

    def on_grid(self, rows: Scores) -> Array:
        """Lay a value for each token over the image, (N, *grid), as the explained layer lies."""
        sizes = image_sizes(self._inputs, self._model.inputs)
        return laid_out(rows, self._trace, self._blocks[-1].tokens, self._listed, sizes)

    def image_scores(self, count: int, make: Make, *, probability: bool = False) -> Scores:
        """Return the scores of variants of the image, (count, N)."""
        rows = []
        for numbers in self._groups(count):
            made = make(numbers)
            self.passes += len(numbers)
            inputs = self._image.replaced(made.reshape(-1, *made.shape[2:]), len(numbers))
            with self._model.trace(inputs, []) as trace:  # no layer: nothing of the run is kept
                rows.append(self._score.of(trace.logits, probability=probability))
        return np.concatenate(rows)

    def replayed_scores(self, count: int, make: Make, *, probability: bool = False) -> Scores:
        """Return the scores of variants of the activations, (count, N)."""
        return self._replayed(count, make, partial(self._score.of, probability=probability))

    def replayed_logits(self, count: int, make: Make) -> Scores:
        """Return the logits of variants of the activations, (count, N, classes)."""
        return self._replayed(count, make, self._score.each)

    def _replayed(self, count: int, make: Make, read: Callable[..., Scores]) -> Scores:
        """Return what is read of each variant's logits, (count, ...).

        A replay has the batch of its run: for several at once, the model is first run on as many
        copies of the items.
        """
        groups = self._groups(count)
        copies = len(groups[0])
        rows = []
        with ExitStack() as stack:
            trace = self._trace
            if copies > 1:
                self.passes += copies
                trace = stack.enter_context(self._traced(self._image.repeated(copies)))
            for numbers in groups:
                made = make(numbers)
                fill = [made[-1:]] * (copies - len(numbers))
                whole = np.concatenate([made, *fill]) if fill else made
                self.passes += copies
                logits = trace.replay(self._layer, whole.reshape(-1, *whole.shape[2:]))
                rows.append(read(logits)[: len(numbers)])
        return np.concatenate(rows)

    def _groups(self, count: int) -> list[range]:
        """Variants in groups of equal length, the last perhaps shorter, each within a batch."""
        items = len(self.activations)
        fixed = [s.shape[0] for s in self._model.inputs if s.shape and s.shape[0] is not None]
        batch = min(fixed) if fixed else self._asked or items_at_once(self._inputs, self._model)
        most = max(1, batch // items)
        size = ceil(count / ceil(count / most))
        return [range(start, min(start + size, count)) for start in range(0, count, size)]
