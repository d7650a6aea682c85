"""The plan of an explanation, and its execution: resolve everything first, then run once."""

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam import method_named, raw_maps
from gradcam_multi.choice import Choice, check_items, choose, moved, on_grid, outputs_of
from gradcam_multi.errors import InputError, TargetError
from gradcam_multi.explanation import SATURATED, STATUS_NOTES, Explanation
from gradcam_multi.layers import Ends, Layers, mark_default, path_of
from gradcam_multi.plugins import installed
from gradcam_multi.sizes import (
    batch_count,
    finite_items,
    image_sizes,
    part_of,
    sizes_key,
    spatial_size,
)
from gradcam_multi.spec import Folding, Inputs, Layer, Model, Trace
from gradcam_multi.targets import (
    AnyTarget,
    as_targets,
    outputs_read,
    score_batch,
)
from gradcam_multi.targets import chosen_output as chosen_output  # for what opens models itself
from gradcam_multi.tokens import FoldedTrace, fold_rows

Names = tuple[str, ...]


class CamWarning(UserWarning):
    """A map of the batch says nothing, or not what one may think; the message says why."""


class Explainer:
    """A model opened once, to be explained many times, from many threads.

    `model` is what an installed adapter claims: a torch.nn.Module, a Keras model or its file, an
    ONNX path, bytes, ModelProto or InferenceSession. `layer` names the layer to explain, or gives
    the steps of its path; left out, the final feature map is chosen. `method` is a name in
    `METHODS`. `backend` names the adapter; left out, the first that claims the model. `output`
    names the output to explain where there are several. `grid` says how the tokens of a layer lie
    over the image, (rows, columns), where that is ambiguous; what is in front of these cells (a
    class token) is left out. `labels` are the class names. `guided` keeps only positive gradients
    at positive activations. `batch_size` bounds how many items run at once. `trust` runs code that
    the model's file holds (a Lambda layer, a pickle): only for files from somebody you trust.

    Raises what `errors` draws: a ModelError for the model, a MethodError for the method.
    """

    def __init__(
        self,
        model: Any,
        *,
        layer: str | Sequence[str] | None = None,
        method: str = "gradcam",
        backend: str | None = None,
        output: str | None = None,
        labels: Sequence[str] | None = None,
        guided: bool = False,
        batch_size: int | None = None,
        trust: bool = False,
        grid: Sequence[int] | None = None,
    ) -> None:
        self.method = method_named(method)
        self.layer = layer
        self.output = output
        self.labels = labels
        self.guided = guided
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size {batch_size} was asked for: give at least 1")
        self.batch_size = batch_size
        self.grid = None if grid is None else tuple(grid)
        self.model: Model = installed().open(model, backend, trust)
        self._resolved: dict[tuple[Any, Names], Choice] = {}

    def __call__(self, inputs: Inputs, target: Any = None) -> Explanation:
        """Explain a batch: one forward pass, and one step back from the target to the layer.

        `target` is None for the top class, a class index or name, a target object, or a sequence
        of these, one an item. Raises InputError, LayerError or TargetError.
        """
        return self.several(inputs, [target])[0]

    def several(self, inputs: Inputs, targets: Iterable[Any]) -> list[Explanation]:
        """Explain a batch for several targets with one forward pass; one explanation a target."""
        targets = list(targets)
        count = batch_count(inputs)
        size = self.batch_size or count
        per_target = [as_targets(target, count) for target in targets]
        read = [outputs_read(row) for row in per_target]
        parts = []
        for start in range(0, count, size):
            chunk = inputs if size >= count else part_of(inputs, slice(start, start + size))
            rows = [row[start : start + size] for row in per_target]
            parts.append(self._run(chunk, rows, read))
        explanations = [Explanation.concatenate(group) for group in zip(*parts, strict=True)]
        for explanation in explanations:
            _warn(explanation, self._choice(inputs, read).default)
        return explanations

    def layers(self, inputs: Inputs = None) -> Layers:
        """List every operation in execution order, the default layer marked.

        `inputs` are needed where the framework can tell only by running (PyTorch).
        """
        listed = mark_default(self.model.layers(inputs), self.output)
        return fold_rows(listed, image_sizes(inputs, self.model.inputs))

    def folding(self, inputs: Inputs) -> Folding | None:
        """Return how the explained layer's tokens lie over the image; None for other layers."""
        with self.traced(inputs) as trace:
            return trace.folding if isinstance(trace, FoldedTrace) else None

    @contextmanager
    def traced(self, inputs: Inputs) -> Iterator[Trace]:
        """Run once and keep the explained layer's activations (N, C, *grid), tokens folded."""
        with self._traced(inputs, self._choice(inputs)) as trace:
            yield trace

    @contextmanager
    def _traced(self, inputs: Inputs, choice: Choice) -> Iterator[Trace]:
        with self.model.trace(inputs, [choice.name]) as run:
            trace = on_grid(run, choice, image_sizes(inputs, self.model.inputs), self.grid)
            check_items(choice.name, len(trace.activations[0]), batch_count(inputs))
            yield trace

    def _run(
        self, inputs: Inputs, rows: Sequence[Sequence[AnyTarget]], read: Sequence[Names]
    ) -> list[Explanation]:
        first = choice = self._choice(inputs, read)
        explanations, dead = self._explain_at(choice, inputs, rows, read)
        while dead and choice.upstream:
            choice = moved(choice)
            found, dead = self._explain_at(choice, inputs, rows, read)
            if not dead:
                self._resolved[_key(inputs, read)] = choice
                warnings.warn(
                    f"the score depends on the prefix tokens alone at {first.name!r}, the default "
                    f"layer, which enters the last block: {choice.name!r} is explained instead; "
                    "name a layer to choose another",
                    CamWarning,
                    stacklevel=_callers_level(),
                )
                return found
        return explanations

    def _explain_at(
        self,
        choice: Choice,
        inputs: Inputs,
        rows: Sequence[Sequence[AnyTarget]],
        read: Sequence[Names],
    ) -> tuple[list[Explanation], bool]:
        """The explanations at a layer, and whether only a prefix of its tokens has gradients."""
        layer = choice.name
        with self._traced(inputs, choice) as trace:
            size = spatial_size(inputs, self.model.inputs, trace.activations[0])
            finite = finite_items(inputs)
            found, dead = [], []
            for row, names in zip(rows, read, strict=True):
                found.append(self._explain(trace, row, names, layer, size, finite))
                dead.append(isinstance(trace, FoldedTrace) and trace.dead)
            return found, all(dead)

    def _explain(
        self,
        trace: Trace,
        targets: Sequence[AnyTarget],
        read: Names,
        layer: str,
        size: tuple[int, ...],
        finite: NDArray[np.bool_],
    ) -> Explanation:
        shapes = {name: z.shape for name, z in trace.logits.items()}
        output = chosen_output(read[0] if read else self.output, shapes)
        scored = score_batch(
            targets,
            trace.logits,
            output,
            specs=self.model.outputs,
            labels=self.labels,
            size=size,
            layout=next((s.layout for s in self.model.inputs if s.layout), "channels_first"),
        )
        (gradients,) = trace.vjp(scored.cotangents)
        cam, status = raw_maps(
            trace.activations[0],
            gradients,
            self.method,
            guided=self.guided,
            finite_inputs=finite & scored.finite,
        )
        return Explanation(
            cam=cam,
            status=status,
            scores=scored.scores,
            targets=scored.targets,
            outputs=trace.outputs[output],
            logits=trace.logits[output],
            layer=layer,
            method=self.method.name,
            backend=self.model.backend,
            output=output,
            size=size,
            activation=next((s.activation for s in self.model.outputs if s.name == output), None),
            labels=self.labels,
        )

    def _choice(self, inputs: Inputs, read: Sequence[Names] = ()) -> Choice:
        """The layer that was named, or the default one; looked up once for inputs of a shape.

        `read` are the outputs that each row of targets names; where all name some, it is the
        default layer of these.
        """
        key = _key(inputs, read)
        if key not in self._resolved:
            listed = self.model.layers(inputs)
            named = None if self.layer is None else path_of(self.layer, listed)
            self._resolved[key] = choose(listed, named, self._ends(listed, key[1]))
        return self._resolved[key]

    def _ends(self, listed: Sequence[Layer], read: Names) -> Ends:
        """The outputs explained, as far as the listing tells; None where the run has to."""
        names = outputs_of(self.model, listed)
        # With a layer that is named, the run will tell whether the output exists.
        told = self.layer is None or (names and self.output in (None, *names))
        if not told:
            return self.output
        if read:
            return tuple(chosen_output(name, names) for name in read)
        try:
            return chosen_output(self.output, names)
        except TargetError:
            if self.output is None and (None in names.values() or not names):
                return None
            raise


def _key(inputs: Inputs, read: Sequence[Names]) -> tuple[Any, Names]:
    """What the choice of the layer depends on."""
    every = tuple(dict.fromkeys(name for names in read for name in names))
    return sizes_key(inputs), every if all(read) else ()


def explain(
    model: Any,
    inputs: Inputs,
    target: Any = None,
    *,
    layer: str | Sequence[str] | None = None,
    method: str = "gradcam",
    backend: str | None = None,
    output: str | None = None,
    labels: Sequence[str] | None = None,
    guided: bool = False,
    batch_size: int | None = None,
    trust: bool = False,
    grid: Sequence[int] | None = None,
) -> Explanation:
    """Show where a model looked when it gave a score; see `Explainer` for the arguments.

    `inputs` are arrays as the model takes them, batch axis first. For many batches, open the
    model once with `Explainer`.
    """
    explainer = Explainer(
        model,
        layer=layer,
        method=method,
        backend=backend,
        output=output,
        labels=labels,
        guided=guided,
        batch_size=batch_size,
        trust=trust,
        grid=grid,
    )
    return explainer(inputs, target)


def layers(
    model: Any, inputs: Inputs = None, *, backend: str | None = None, trust: bool = False
) -> Layers:
    """List a model's operations in execution order, the default layer marked.

    `inputs` are needed where the framework can tell only by running (PyTorch).
    """
    opened = installed().open(model, backend, trust)
    listed = mark_default(opened.layers(inputs))
    return fold_rows(listed, image_sizes(inputs, opened.inputs))


def _warn(explanation: Explanation, default: str | None) -> None:
    sure = explanation.saturated.sum()
    if sure:
        warnings.warn(
            f"{sure} of {len(explanation)} items: {SATURATED}",
            CamWarning,
            stacklevel=_callers_level(),
        )
    for status in dict.fromkeys(explanation.status):
        if status != "ok":
            count = explanation.status.count(status)
            cure = ""
            if status == "zero_gradient" and default not in (None, explanation.layer):
                cure = f"; the default layer is {default!r}"
            warnings.warn(
                f"{count} of {len(explanation)} maps: {status}: {STATUS_NOTES[status]}{cure}",
                CamWarning,
                stacklevel=_callers_level(),
            )


def _callers_level() -> int:
    """How many frames above the warning the first one outside of this module is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        level, frame = level + 1, frame.f_back
    return level
