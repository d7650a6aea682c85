"""A gradient file, used as it is: nothing is differentiated a second time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gradcam_multi.backward import check_rule, not_guided
from gradcam_multi.errors import InputError, ModelFileError, UnknownLayerError, suggest
from gradcam_multi.spec import Array, Inputs, Layer, ReluRule, TensorSpec
from gradcam_multi.targets import probability
from gradcam_multi_onnx.feeds import Feeds, batches, make_feeds
from gradcam_multi_onnx.graph import Graph, reads
from gradcam_multi_onnx.model import OnnxModel
from gradcam_multi_onnx.replay import Tail
from gradcam_multi_onnx.session import make_session, run
from gradcam_multi_onnx.source import Source

COTANGENT, SCORES, ACTIVATIONS, GRADIENTS = "cotangent", "scores", "activations", "gradients"


class GradientFile:
    """A file of kind "gradient" as a model with one layer; see `gradcam_multi.spec.Model`.

    Its forward and its backward part run apart, each once: what the backward part reads of the
    forward one is kept between the two.
    """

    backend = "onnx"

    def __init__(self, source: Source, properties: Mapping[str, str]) -> None:
        opened = OnnxModel(source)
        graph, names = opened._graph, {spec.name for spec in opened.outputs}
        if not {SCORES, ACTIVATIONS, GRADIENTS} <= names:
            raise ModelFileError(
                f"{source.name} says that it is a gradient file but returns "
                f"{', '.join(sorted(names))}; export it again"
            )
        self.inputs = tuple(spec for spec in opened.inputs if spec.name != COTANGENT)
        scores = next(spec for spec in opened.outputs if spec.name == SCORES)
        self._activation = properties.get("activation") or None
        self._name = properties.get("output") or SCORES
        self._layer = properties.get("layer") or ACTIVATIONS
        self.outputs = (
            TensorSpec(self._name, scores.shape, "float32", None, self._activation),  # type: ignore[arg-type]  # one of the two, or None
        )
        self._shape = graph.type(ACTIVATIONS).public
        self._backward = Tail(graph, COTANGENT, [GRADIENTS])
        self._kept = (SCORES, ACTIVATIONS, *self._backward.boundary)
        self._forward = make_session(_forward(graph, self._kept), source.providers)
        self._dtype = np.float64 if graph.type(COTANGENT).dtype == 11 else np.float32

    def layers(self, inputs: Inputs = None) -> tuple[Layer, ...]:
        """The layer that the file was made for, and the scores."""
        return (
            Layer(self._layer, "activations", "conv", self._shape, 1),
            Layer(self._name, "scores", "linear", None, None, (self._layer,), self._name),
        )

    @contextmanager
    def trace(
        self, inputs: Inputs, layers: Sequence[str], *, relu: ReluRule = "plain"
    ) -> Iterator["GradientTrace"]:
        """Run the forward part once; only the file's own layer can be asked for."""
        if check_rule(relu):
            raise not_guided("the file holds plain ones only", "give the model that it was made of")
        for name in layers:
            if name != self._layer:
                raise UnknownLayerError(
                    f"the file holds the gradient at {self._layer!r} only, not at {name!r}"
                    f"{suggest(name, [self._layer])}; export it again for another layer"
                )
        cut = list(batches(self.inputs, make_feeds(self.inputs, inputs)))
        trace = GradientTrace(self, cut, len(layers))
        try:
            yield trace
        finally:
            trace.close()

    def forward(self, feeds: Feeds) -> Feeds:
        """Return the scores, the activations and what the backward part reads."""
        own = [name for name in self._kept if name not in feeds]
        return {**feeds, **run(self._forward, feeds, own)}

    def backward(self, cotangent: NDArray[Any], values: Feeds) -> Array:
        """Return the gradients, (N, C, *grid), for a cotangent of the scores."""
        found: Array = self._backward(np.asarray(cotangent, self._dtype), values)[GRADIENTS]
        return found

    def finished(self, scores: Array) -> Array:
        """Return what the exported model makes of its scores."""
        if self._activation is None:
            return scores
        kind: Any = self._activation
        # Axes of one behind the classes, as a convolution leaves them, go and come back.
        flat = scores.reshape(len(scores), -1).astype(np.float64)
        return probability(flat, kind).reshape(scores.shape).astype(np.float32)

    @property
    def name(self) -> str:
        """The name of its output."""
        return self._name


def _forward(graph: Graph, kept: Sequence[str]) -> bytes:
    nodes = graph.between(kept, frozenset())
    read = {name for node in nodes for name in reads(node)} | set(kept)
    tensors = graph.tensors(read & graph.weights)
    inputs = [value for value in graph.inputs if value.name != COTANGENT]
    given = {value.name for value in inputs}
    # Without shapes: the runtime infers them, and a guess could only be wrong.
    outputs = [onnx.ValueInfoProto(name=name) for name in kept if name not in given]
    body = onnx.helper.make_graph(nodes, "forward", inputs, outputs, tensors)
    data: bytes = graph.model(body).SerializeToString()
    return data


class GradientTrace:
    """One forward run of a gradient file; see `gradcam_multi.spec.Trace`."""

    def __init__(self, file: GradientFile, cut: Sequence[tuple[Feeds, int]], layers: int) -> None:
        self._file, self._layers = file, layers
        self._counts = [count for _, count in cut]
        self._runs = [file.forward(feeds) for feeds, _ in cut]

    def close(self) -> None:
        """Free everything that the run kept."""
        self._runs = []

    def _whole(self, parts: Sequence[NDArray[Any]]) -> Array:
        if not parts:
            raise RuntimeError("the trace is closed; use it inside its with block")
        kept = [part[:count] for part, count in zip(parts, self._counts, strict=True)]
        return np.concatenate(kept).astype(np.float32, copy=False)

    @property
    def outputs(self) -> Mapping[str, Array]:
        """What the exported model returned."""
        return {self._file.name: self._file.finished(self.logits[self._file.name])}

    @property
    def logits(self) -> Mapping[str, Array]:
        """The scores."""
        return {self._file.name: self._whole([run[SCORES] for run in self._runs])}

    @property
    def activations(self) -> tuple[Array, ...]:
        """(N, C, *grid) float32, once for each time that the layer was asked for."""
        return (self._whole([run[ACTIVATIONS] for run in self._runs]),) * self._layers

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply a cotangent of the scores back to the layer."""
        unknown = [name for name in cotangents if name != self._file.name]
        shape = self.logits[self._file.name].shape
        if unknown or self._file.name not in cotangents:
            raise InputError(f"the file has one output, {self._file.name!r}; give its cotangent")
        cotangent = np.asarray(cotangents[self._file.name])
        if cotangent.shape != shape:
            raise InputError(f"the cotangent must have shape {shape}, got {cotangent.shape}")
        found, start = [], 0
        for values, count in zip(self._runs, self._counts, strict=True):
            part = np.zeros(values[SCORES].shape, np.float32)
            part[:count] = cotangent[start : start + count]
            found.append(self._file.backward(part, values))
            start += count
        return (self._whole(found),) * self._layers

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Refused: the part of the model behind the layer cannot be run apart in such a file."""
        raise InputError("a gradient file cannot be replayed from its layer; use the model itself")
