"""The plan of an explanation, and its execution: resolve everything first, then run once."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.cam import method_named, probed_maps
from gradcam_multi.choice import Choice, check_items, map_rank, moved, on_grid
from gradcam_multi.choices import Choices, Names
from gradcam_multi.explanation import Explanation
from gradcam_multi.fusion import Fuse, fused, fusion_named
from gradcam_multi.image_input import ImageInput
from gradcam_multi.layers import Layers, mark_default
from gradcam_multi.notices import CamWarning as CamWarning
from gradcam_multi.notices import notify, warn_of
from gradcam_multi.plugins import installed
from gradcam_multi.probing import ModelProbe, Settings
from gradcam_multi.scoring import Score
from gradcam_multi.sizes import (
    batch_count,
    finite_items,
    image_sizes,
    part_of,
    spatial_size,
)
from gradcam_multi.smoothing import Smooth, smoothed, smoothing_named
from gradcam_multi.spec import Folding, InputName, Inputs, Layout, Model, Trace
from gradcam_multi.targets import AnyTarget, as_targets, outputs_read, score_batch
from gradcam_multi.targets import chosen_output as chosen_output  # for what opens models itself
from gradcam_multi.tokens import FoldedTrace, fold_rows


class Explainer:
    """A model opened once, to be explained many times, from many threads.

    `model` is what an installed adapter claims: a torch.nn.Module, a Keras model or its file, an
    ONNX path, bytes, ModelProto or InferenceSession. `layer` names the layer to explain, or gives
    the steps of its path; left out, the final feature map is chosen. With `fuse` ("mean", "max" or
    "product") it is a list of several layers, whose heatmaps become one. `method` is a name in
    `METHODS`. `backend` names the adapter; left out, the first that claims the model. `output`
    names the output to explain where there are several. `grid` says how the tokens of a layer lie
    over the image, (rows, columns), where that is ambiguous; what is in front of these cells (a
    class token) is left out. `labels` are the class names. `guided` keeps only positive gradients
    at positive activations. `batch_size` bounds how many items run at once. `trust` runs code that
    the model's file holds (a Lambda layer, a pickle): only for files from somebody you trust.
    `seed` is that of the methods' random numbers, `samples` how many masks or noisy inputs they
    take instead of their own number. `smooth` averages any method's maps over the mirrored input
    too, "flip", or over noisy ones, "noise", or resized ones, "scales"; "pca" takes the first
    principal component of the weighted channels instead of their sum. `baseline` is where
    Integrated Gradients starts, the input that says nothing: a number, or an array that broadcasts
    to an item as the model takes it.

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
        seed: int = 0,
        samples: int | None = None,
        fuse: Fuse | None = None,
        smooth: Smooth | None = None,
        baseline: ArrayLike = 0.0,
    ) -> None:
        self.method = method_named(method)
        several = fuse is not None and layer is not None and not isinstance(layer, str)
        self._fused = tuple(layer or ()) if several else ()
        self.layer = None if several else layer
        self.fuse = fusion_named(fuse or "mean")
        self.smooth = smoothing_named(smooth)
        self.output = output
        self.labels = labels
        self.guided = guided
        self.batch_size = batch_size
        self.settings = Settings(seed, samples, batch_size, baseline)
        self.grid = None if grid is None else tuple(grid)
        self.model: Model = installed().open(model, backend, trust)
        self._choices = Choices(self.model)
        self._facts: set[Hashable] = set()

    def __call__(self, inputs: Inputs, target: Any = None) -> Explanation:
        """Explain a batch: one forward pass, and one step back from the target to the layer.

        `target` is None for the top class, a class index or name, a target object, or a sequence
        of these, one an item. Raises InputError, LayerError or TargetError.
        """
        return self.several(inputs, [target])[0]

    def several(self, inputs: Inputs, targets: Iterable[Any]) -> list[Explanation]:
        """Explain a batch for several targets with one forward pass; one explanation a target."""
        targets = list(targets)
        each = [self._at(name)._maps(inputs, targets) for name in self._fused]
        if each:
            explanations = [fused(group, self.fuse) for group in zip(*each, strict=True)]
        else:
            explanations = self._maps(inputs, targets)
        default = None
        if not each:
            read = [outputs_read(as_targets(target, batch_count(inputs))) for target in targets]
            default = self._choice(inputs, read).default
        for explanation in explanations:
            warn_of(explanation, default)
        return explanations

    def _at(self, layer: str) -> "Explainer":
        """The same explainer of one layer, its model shared."""
        one = copy(self)
        one.layer, one._fused = layer, ()
        return one

    def _maps(self, inputs: Inputs, targets: Sequence[Any]) -> list[Explanation]:
        """One explanation a target, smoothed where that was asked for."""
        plain = self._plain_maps(inputs, targets)
        if self.smooth in (None, "pca"):  # the method itself takes the component
            return plain
        image = ImageInput(inputs, self.model.inputs, plain[0].cam.ndim - 1)
        how, settings = self.smooth, self.settings
        return [smoothed(each, self._plain_maps, image, how, settings) for each in plain]

    def _plain_maps(self, inputs: Inputs, targets: Sequence[Any]) -> list[Explanation]:
        """One explanation a target, made a batch at a time."""
        count = batch_count(inputs)
        size = self.batch_size or count
        per_target = [as_targets(target, count) for target in targets]
        read = [outputs_read(row) for row in per_target]
        parts = []
        for start in range(0, count, size):
            chunk = inputs if size >= count else part_of(inputs, slice(start, start + size))
            rows = [row[start : start + size] for row in per_target]
            parts.append(self._run(chunk, rows, read))
        return [Explanation.concatenate(group) for group in zip(*parts, strict=True)]

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

    @contextmanager
    def _first_run(self, inputs: Inputs, choice: Choice) -> Iterator[Trace]:
        """Run once and keep what the method reads: the layer, or the input alone."""
        rule = self.method.at_input
        if rule is None:
            with self._traced(inputs, choice) as trace:
                yield trace
            return
        image = ImageInput(inputs, self.model.inputs, map_rank(choice, inputs, self.model.inputs))
        image.check_floating()
        with self.model.trace(inputs, [InputName(image.name)], relu=rule) as trace:
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
                self._choices.keep(choice, inputs, self.layer, self.output, read)
                notify(
                    f"the score depends on the prefix tokens alone at {first.name!r}, the default "
                    f"layer, which enters the last block: {choice.name!r} is explained instead; "
                    "name a layer to choose another"
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
        with self._first_run(inputs, choice) as trace:
            size = spatial_size(inputs, self.model.inputs, trace.activations[0])
            finite = finite_items(inputs)
            found, dead = [], []
            for row, names in zip(rows, read, strict=True):
                found.append(self._explain(trace, row, names, choice, inputs, size, finite))
                dead.append(isinstance(trace, FoldedTrace) and trace.dead)
            return found, all(dead)

    def _explain(
        self,
        trace: Trace,
        targets: Sequence[AnyTarget],
        read: Names,
        choice: Choice,
        inputs: Inputs,
        size: tuple[int, ...],
        finite: NDArray[np.bool_],
    ) -> Explanation:
        shapes = {name: z.shape for name, z in trace.logits.items()}
        output = chosen_output(read[0] if read else self.output, shapes)
        layouts = (spec.layout for spec in self.model.inputs if spec.layout)
        layout: Layout = next(layouts, "channels_first")
        score = partial(
            score_batch, output=output, specs=self.model.outputs, labels=self.labels, size=size,
            layout=layout,
        )  # fmt: skip
        scored = score(targets, trace.logits)
        activation = next((s.activation for s in self.model.outputs if s.name == output), None)
        probe = ModelProbe(
            self.model, inputs, trace, choice.name, Score(scored, output, score, activation),
            lambda other: self._traced(other, choice), self.settings, choice.listed,
            self.method.at_input, self._facts,
        )  # fmt: skip
        whole = self.method.on_input or "attention" in self.method.needs
        if isinstance(trace, FoldedTrace) and not whole:
            probe.gradients()  # tells whether the tokens are dead, and the layer is to move
        cam, status = probed_maps(
            probe, self.method, guided=self.guided, component=self.smooth == "pca",
            finite_inputs=finite & scored.finite,
        )  # fmt: skip
        return Explanation(
            cam=cam,
            status=status,
            scores=scored.scores,
            targets=scored.targets,
            outputs=trace.outputs[output],
            logits=trace.logits[output],
            layer=probe.image_name if self.method.on_input else choice.name,
            method=self.method.name,
            backend=self.model.backend,
            output=output,
            size=size,
            activation=activation,
            labels=self.labels,
            seed=self.settings.seed,
            cost=probe.passes,
            attribution=probe.attributed(status),
        )

    def _choice(self, inputs: Inputs, read: Sequence[Names] = ()) -> Choice:
        """The layer that is explained, for targets that name outputs to `read`."""
        return self._choices.of(inputs, self.layer, self.output, read)


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
    seed: int = 0,
    samples: int | None = None,
    fuse: Fuse | None = None,
    smooth: Smooth | None = None,
    baseline: ArrayLike = 0.0,
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
        seed=seed,
        samples=samples,
        fuse=fuse,
        smooth=smooth,
        baseline=baseline,
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
