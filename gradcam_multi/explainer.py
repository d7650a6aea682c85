"""The plan of an explanation, and its execution: resolve everything first, then run once."""

import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam import method_named, raw_maps
from gradcam_multi.errors import InputError, LayerError, TargetError, suggest
from gradcam_multi.explanation import STATUS_NOTES, Explanation
from gradcam_multi.layers import Layers, check_channels, final_feature_map, mark_default
from gradcam_multi.plugins import installed
from gradcam_multi.spec import Array, Inputs, Model, TensorSpec, Trace
from gradcam_multi.targets import Target, as_targets, class_scores


class CamWarning(UserWarning):
    """A map of the batch says nothing, or not what one may think; the message says why."""


class Explainer:
    """A model opened once, to be explained many times, from many threads.

    `model` is what an installed adapter claims: a torch.nn.Module, a Keras model or its file, an
    ONNX path, bytes, ModelProto or InferenceSession. `layer` names the layer to explain; left out,
    the final feature map is chosen. `method` is a name in `METHODS`. `backend` names the adapter;
    left out, the first that claims the model. `output` names the output to explain where there are
    several. `labels` are the class names. `guided` keeps only positive gradients at positive
    activations. `batch_size` bounds how many items run at once. `trust` runs code that the model's
    file holds (a Lambda layer, a pickle): only for files from somebody you trust.

    Raises what `errors` draws: a ModelError for the model, a MethodError for the method.
    """

    def __init__(
        self,
        model: Any,
        *,
        layer: str | None = None,
        method: str = "gradcam",
        backend: str | None = None,
        output: str | None = None,
        labels: Sequence[str] | None = None,
        guided: bool = False,
        batch_size: int | None = None,
        trust: bool = False,
    ) -> None:
        self.method = method_named(method)
        self.layer = layer
        self.output = output
        self.labels = labels
        self.guided = guided
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size {batch_size} was asked for: give at least 1")
        self.batch_size = batch_size
        self.model: Model = installed().open(model, backend, trust)
        self._resolved: dict[tuple[Any, ...], str] = {}

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
        parts = []
        for start in range(0, count, size):
            chunk = inputs if size >= count else _part(inputs, slice(start, start + size))
            rows = [row[start : start + size] for row in per_target]
            parts.append(self._run(chunk, rows))
        explanations = [Explanation.concatenate(group) for group in zip(*parts, strict=True)]
        for explanation in explanations:
            _warn(explanation)
        return explanations

    def layers(self, inputs: Inputs = None) -> Layers:
        """List every operation in execution order, the default layer marked.

        `inputs` are needed where the framework can tell only by running (PyTorch).
        """
        return mark_default(self.model.layers(inputs), self.output)

    def _run(self, inputs: Inputs, rows: Sequence[Sequence[Target]]) -> list[Explanation]:
        layer = self._layer(inputs)
        with self.model.trace(inputs, [layer]) as trace:
            activations = trace.activations[0]
            if activations.ndim < 3:
                raise LayerError(
                    f"layer {layer!r} makes {activations.shape}: a map needs a layer with a grid; "
                    "`gradcam layers` lists them"
                )
            size = _spatial_size(inputs, self.model.inputs, activations)
            finite = _finite_items(inputs)
            return [self._explain(trace, row, layer, size, finite) for row in rows]

    def _explain(
        self,
        trace: Trace,
        targets: Sequence[Target],
        layer: str,
        size: tuple[int, ...],
        finite: NDArray[np.bool_],
    ) -> Explanation:
        output = chosen_output(self.output, list(trace.logits))
        activation = next((s.activation for s in self.model.outputs if s.name == output), None)
        raw = trace.logits[output]
        logits = class_scores(raw, output)
        resolved = [t.resolve(z, self.labels) for t, z in zip(targets, logits, strict=True)]
        scored = [t.score(z, activation) for t, z in zip(resolved, logits, strict=True)]
        cotangent = np.stack([derivative for _, derivative in scored]).astype(np.float32)
        (gradients,) = trace.vjp({output: cotangent.reshape(raw.shape)})
        cam, status = raw_maps(
            trace.activations[0],
            gradients,
            self.method,
            guided=self.guided,
            finite_inputs=finite,
        )
        return Explanation(
            cam=cam,
            status=status,
            scores=np.array([score for score, _ in scored]),
            targets=tuple(resolved),
            outputs=trace.outputs[output],
            logits=raw,
            layer=layer,
            method=self.method.name,
            backend=self.model.backend,
            output=output,
            size=size,
            activation=activation,
            labels=self.labels,
        )

    def _layer(self, inputs: Inputs) -> str:
        """The layer that was named, or the default one; looked up once for inputs of a shape."""
        # The grid, and so the choice, may depend on the input's size, but not on the batch's.
        key = tuple(np.shape(array)[1:] for array in _arrays(inputs))
        if key not in self._resolved:
            listed = self.model.layers(inputs)
            if self.layer is None:
                names = [entry.output for entry in listed if entry.output]
                name = final_feature_map(listed, chosen_output(self.output, names)).name
            else:
                name = self.layer  # perhaps an alias, which the adapter knows
                check_channels(listed, name)
            self._resolved[key] = name
        return self._resolved[key]


def explain(
    model: Any,
    inputs: Inputs,
    target: Any = None,
    *,
    layer: str | None = None,
    method: str = "gradcam",
    backend: str | None = None,
    output: str | None = None,
    labels: Sequence[str] | None = None,
    guided: bool = False,
    batch_size: int | None = None,
    trust: bool = False,
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
    )
    return explainer(inputs, target)


def layers(
    model: Any, inputs: Inputs = None, *, backend: str | None = None, trust: bool = False
) -> Layers:
    """List a model's operations in execution order, the default layer marked.

    `inputs` are needed where the framework can tell only by running (PyTorch).
    """
    return mark_default(installed().open(model, backend, trust).layers(inputs))


def _arrays(inputs: Inputs) -> list[Any]:
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def batch_count(inputs: Inputs) -> int:
    """Return the number of items; raise InputError where inputs are empty or disagree."""
    for array in _arrays(inputs):
        if isinstance(array, str | os.PathLike):
            raise InputError(
                f"inputs are arrays, and {str(array)!r} is a path: read it with load_image, and "
                "give what Preprocess makes of it"
            )
    shapes = [tuple(np.shape(array)) for array in _arrays(inputs)]
    counts = {shape[0] for shape in shapes if shape}
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            f"inputs of the shapes {', '.join(map(str, shapes)) or 'none'} were given: the first "
            "axis is the batch, at least one item, the same for all inputs"
        )
    return int(counts.pop())


def _finite_items(inputs: Inputs) -> NDArray[np.bool_]:
    """(N,) whether each item's inputs are free of NaN and infinity, as far as NumPy can see."""
    finite = np.ones(batch_count(inputs), np.bool_)
    for array in _arrays(inputs):
        try:
            values = np.asarray(array)
        except (TypeError, RuntimeError):
            continue  # on another device, or part of a graph: the activations will tell
        if values.dtype.kind == "f":
            # One pass; a sum is finite unless an addend is not, or it overflows: only then look.
            with np.errstate(all="ignore"):
                doubtful = ~np.isfinite(values.reshape(len(values), -1).sum(1))
            for index in np.flatnonzero(doubtful):
                finite[index] &= bool(np.isfinite(values[index]).all())
    return finite


def _part(inputs: Inputs, items: slice) -> Inputs:
    if isinstance(inputs, Mapping):
        return {name: array[items] for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(array[items] for array in inputs)
    return inputs[items]


def _spatial_size(inputs: Inputs, specs: Sequence[TensorSpec], cam: Array) -> tuple[int, ...]:
    """Spatial size of the first input whose rank fits the map; the map's own where none does."""
    by_name = {spec.name: spec for spec in specs}
    named = inputs.items() if isinstance(inputs, Mapping) else ()
    pairs = [(array, by_name.get(name)) for name, array in named]
    if not pairs:
        padded = [*specs, *[None] * len(_arrays(inputs))]
        pairs = list(zip(_arrays(inputs), padded, strict=False))
    for array, spec in pairs:
        shape = tuple(np.shape(array))
        if len(shape) == cam.ndim:
            last = spec is not None and spec.layout == "channels_last"
            return tuple(map(int, shape[1:-1] if last else shape[2:]))
    return cam.shape[2:]


def chosen_output(asked: str | None, names: Sequence[str]) -> str:
    """Return the output asked for; else `logits` where one is called so, else the first.

    Raises TargetError where the model returns no such output.
    """
    if asked is None:
        return "logits" if "logits" in names else names[0]
    if asked not in names:
        raise TargetError(
            f"output {asked!r} was asked for; the model returns {', '.join(names)}"
            f"{suggest(asked, names)}"
        )
    return asked


def _warn(explanation: Explanation) -> None:
    for status in dict.fromkeys(explanation.status):
        if status != "ok":
            count = explanation.status.count(status)
            warnings.warn(
                f"{count} of {len(explanation)} maps: {status}: {STATUS_NOTES[status]}",
                CamWarning,
                stacklevel=_callers_level(),
            )


def _callers_level() -> int:
    """How many frames above the warning the first one outside of this module is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        level, frame = level + 1, frame.f_back
    return level
