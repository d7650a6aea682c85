"""A Keras model as the core sees it: traced once per input signature, then run from the trace."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from gradcam_multi.errors import (
    InputError,
    LayerNotReachedError,
    UnknownLayerError,
    UnsupportedError,
    suggest,
)
from gradcam_multi.spec import Inputs, Layer, TensorSpec
from gradcam_multi_tensorflow.graph import Graph
from gradcam_multi_tensorflow.inputs import Bound, bind_declared, bind_free, declared, describe
from gradcam_multi_tensorflow.listing import Node
from gradcam_multi_tensorflow.record import Call, Recorder, parts, recording
from gradcam_multi_tensorflow.trace import KerasTrace

_GRAPHS = 8  # kept per model; only models that declare no input shapes ever need a second


class KerasModel:
    """An opened Keras 3 model on the TensorFlow backend; see `gradcam_multi.spec.Model`.

    Weights are read when a trace runs, so that later training is seen. A change of the model's
    structure after the first run is not: open the model again.
    """

    backend = "tensorflow"
    framework = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"

    def __init__(self, model: Any) -> None:
        self._model = model
        self._declared = declared(model)
        self._graphs: OrderedDict[Any, Graph] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes; empty before the first run of one that declares no inputs."""
        graph = self._latest()
        return graph.input_specs if graph is not None else ()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model returns; empty before the first run of one that declares no inputs."""
        graph = self._latest()
        return graph.output_specs if graph is not None else ()

    def layers(self, inputs: Inputs = None) -> tuple[Layer, ...]:
        """List every operation in execution order; see `gradcam_multi.spec.Model`."""
        graph = self._latest() if inputs is None else self._graph(self._bind(inputs))
        if graph is None:
            raise InputError(
                f"the layers of {self._title} are known only once it has run; give inputs"
            )
        return graph.listing.layers

    @contextmanager
    def trace(self, inputs: Inputs, layers: Sequence[str]) -> Iterator[KerasTrace]:
        """Run once and keep the results of the named layers; see `gradcam_multi.spec.Model`."""
        bound = self._bind(inputs)
        graph = self._graph(bound)
        plan = graph.plan([self._find(graph, name) for name in layers])
        trace = KerasTrace(graph, plan, bound.tensors)
        try:
            yield trace
        finally:
            trace.close()

    @property
    def _title(self) -> str:
        return f"{type(self._model).__name__} {self._model.name!r}"

    def _bind(self, inputs: Inputs) -> Bound:
        if self._declared is not None:
            return bind_declared(*self._declared, inputs)
        return bind_free(self._model, inputs)

    def _latest(self) -> Graph | None:
        with self._lock:
            if self._graphs:
                return next(reversed(self._graphs.values()))
        if self._declared is None:
            return None
        slots, _ = self._declared
        shapes = [[1 if n is None else n for n in slot.shape] for slot in slots]
        empty = {
            slot.name: tf.zeros(shape, slot.dtype)
            for slot, shape in zip(slots, shapes, strict=True)
        }
        return self._graph(self._bind(empty))

    def _graph(self, bound: Bound) -> Graph:
        key = () if self._declared is not None else bound.key
        fixed = (key, bound.batch)
        with self._lock:
            graph = self._graphs.get(key) or self._graphs.get(fixed)
            if graph is None:
                try:
                    graph = self._graphs[key] = self._trace(bound, None)
                except InputError:
                    # A call that reads the batch size in Python can be traced for that size only.
                    if self._declared is not None:
                        raise
                    graph = self._graphs[fixed] = self._trace(bound, bound.batch)
                if len(self._graphs) > _GRAPHS:
                    self._graphs.popitem(last=False)
            self._graphs.move_to_end(key if key in self._graphs else fixed)
            return graph

    def _trace(self, bound: Bound, batch: int | None) -> Graph:
        specs = [
            tf.TensorSpec((batch, *self._extents(place, tensor)), tensor.dtype)
            for place, tensor in enumerate(bound.tensors.values())
        ]
        kept: dict[str, Any] = {}

        def run(*tensors: tf.Tensor) -> Any:
            recorder.begin(tf.compat.v1.get_default_graph())
            kept["inputs"] = dict(zip(bound.tensors, tensors, strict=True))
            kept["result"] = self._call(bound, tensors)
            return kept["result"]

        with recording(self._model) as recorder:
            try:
                function = tf.function(run, autograph=False).get_concrete_function(*specs)
            except tf.errors.OperatorNotAllowedInGraphError as error:
                raise UnsupportedError(
                    f"{self._title} decides in Python by the values of tensors, so that it has no "
                    "graph to differentiate; write that part of its call with keras.ops.cond or "
                    "keras.ops.where"
                ) from error
            except Exception as error:  # whatever the user's model raises on what it was given
                cause = " ".join(str(error).split())[:200]
                raise InputError(
                    f"{self._title} does not run on {describe(bound.tensors)}: "
                    f"{type(error).__name__}: {cause}"
                ) from error
        outputs = _named_outputs(kept["result"], recorder)
        return Graph(function, recorder.calls, kept["inputs"], outputs)

    def _extents(self, place: int, tensor: tf.Tensor) -> tuple[int | None, ...]:
        shape = tuple(tensor.shape) if self._declared is None else self._declared[0][place].shape
        return shape[1:]

    def _call(self, bound: Bound, tensors: tuple[tf.Tensor, ...]) -> Any:
        places = {id(tensor): place for place, tensor in enumerate(bound.tensors.values())}
        structure = keras.tree.map_structure(
            lambda tensor: tensors[places[id(tensor)]], bound.structure
        )
        if bound.keyword:
            return self._model(**structure, training=False)
        if bound.spread:
            return self._model(*structure, training=False)
        return self._model(structure, training=False)

    def _find(self, graph: Graph, name: str) -> Node:
        node = graph.listing.find(name)
        if node is not None:
            return node
        known = [*graph.listing.nodes, *graph.listing.aliases]
        last = name.rpartition("/")[2].partition("#")[0]
        if any(layer.name == last for layer in parts(self._model)) and last not in known:
            raise LayerNotReachedError(
                f"layer {name!r} is part of {self._title}, but did not run for these inputs; "
                "choose a layer that runs"
            )
        raise UnknownLayerError(
            f"{self._title} has no layer {name!r}{suggest(name, known) or _examples(known)}"
        )


def _examples(known: list[str]) -> str:
    return f"; it has {len(known)}, the last ones {', '.join(map(repr, known[-4:]))}"


def _named_outputs(result: Any, recorder: Recorder) -> dict[str, tf.Tensor]:
    """Name outputs by their keys, else by the layers that make them, as Keras does."""
    makers: dict[str, str] = {}
    root: Call | None = recorder.calls[0] if recorder.calls else None
    for call in recorder.calls:
        if call.parent is root and root is not None:
            makers |= {tensor.name: call.operation.name for tensor in call.outputs}
    flat = keras.tree.flatten_with_path(result)
    keyed = any(isinstance(key, str) for path, _ in flat for key in path)
    outputs: dict[str, tf.Tensor] = {}
    counts: Counter[str] = Counter()
    for place, (path, tensor) in enumerate(flat):
        if not tf.is_tensor(tensor) or not (tensor.dtype.is_floating or tensor.dtype.is_integer):
            continue
        plain = "output" if len(flat) == 1 else f"output_{place}"
        joined = "/".join(map(str, path))
        name = joined if keyed else makers.get(tensor.name, plain)
        counts[name] += 1
        outputs[name if counts[name] == 1 else f"{name}#{counts[name]}"] = tensor
    return outputs
