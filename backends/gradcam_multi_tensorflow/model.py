"""A Keras model as the core sees it: traced once per input signature, then run from the trace."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf

from gradcam_multi.backward import (
    check_floating,
    check_rule,
    find_input,
    no_relu,
    not_guided,
)
from gradcam_multi.errors import (
    InputError,
    LayerNotReachedError,
    UnknownLayerError,
    UnsupportedError,
    suggest,
)
from gradcam_multi.spec import Bias, Block, Inputs, Layer, ReluRule, TensorSpec
from gradcam_multi_tensorflow.biases import biases_of
from gradcam_multi_tensorflow.blocks import GraphBlocks, block_plan
from gradcam_multi_tensorflow.calls import output_names, parts
from gradcam_multi_tensorflow.graph import Graph
from gradcam_multi_tensorflow.inputs import (
    Bound,
    Slot,
    bind_declared,
    bind_free,
    declared,
    describe,
)
from gradcam_multi_tensorflow.listing import Node
from gradcam_multi_tensorflow.names import resolve
from gradcam_multi_tensorflow.record import Recorder, recording
from gradcam_multi_tensorflow.trace import KerasTrace

_GRAPHS = 8  # kept per model; only models that declare no input shapes ever need a second


class GraphModel:
    """A model that is traced into graphs, one for each input signature; a part of the adapter.

    `declared` is what the model takes and in which structure, or None where only a call can tell.
    """

    backend = "tensorflow"
    framework = f"TensorFlow {tf.__version__}, Keras {keras.__version__}"
    _title: str

    def __init__(self, declared: tuple[tuple[Slot, ...], Any] | None) -> None:
        self._declared = declared
        self._graphs: OrderedDict[Any, Graph] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def accelerated(self) -> bool:
        """Whether TensorFlow has another device than the CPU, which it then takes by itself."""
        return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())

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
    def trace(
        self, inputs: Inputs, layers: Sequence[str], *, relu: ReluRule = "plain"
    ) -> Iterator[KerasTrace]:
        """Run once and keep the results of the named layers; see `gradcam_multi.spec.Model`."""
        guided = check_rule(relu)
        bound = self._bind(inputs)
        graph = self._graph(bound)
        if guided:
            self._check_guided(graph)
        plan = graph.plan([self._find(graph, name) for name in layers], guided)
        trace = KerasTrace(graph, plan, bound.tensors, guided)
        try:
            yield trace
        finally:
            trace.close()

    @contextmanager
    def trace_blocks(self, inputs: Inputs, blocks: Sequence[Block]) -> Iterator[GraphBlocks]:
        """Run once and keep the blocks; see `gradcam_multi.spec.Attentive`."""
        bound = self._bind(inputs)
        graph = self._graph(bound)
        plan = block_plan(graph, lambda name: self._find(graph, name), blocks)
        trace = GraphBlocks(plan, list(bound.tensors.values()))
        try:
            yield trace
        finally:
            trace.close()

    def _bind(self, inputs: Inputs) -> Bound:
        assert self._declared is not None  # or a subclass says how
        return bind_declared(*self._declared, inputs)

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
        raise NotImplementedError

    def _exists(self, name: str) -> bool:
        """Whether the model has a layer of this name, run or not."""
        raise NotImplementedError

    def _check_guided(self, graph: Graph) -> None:
        if graph.hidden_relu is not None:
            raise not_guided(
                f"{self._title} runs a ReLU inside the loop, branch or function "
                f"{graph.hidden_relu!r}, whose gradient TensorFlow writes by itself",
                "ask for plain ones",
            )
        if not graph.relus:
            raise no_relu(self._title)

    def _find(self, graph: Graph, name: str) -> Node:
        listing = graph.listing
        if name in graph.unlisted:
            return graph.unlisted[name]
        own = find_input(name, list(graph.inputs), (*listing.nodes, *listing.aliases))
        if own is not None:
            dtype = graph.inputs[own].dtype
            check_floating(own, dtype.name, dtype.is_floating)
            return graph.input_nodes[own]
        found = resolve(name, listing.nodes, listing.aliases, self._title)
        if found is not None:
            return listing.nodes[found]
        known = [*listing.nodes, *listing.aliases]
        last = name.rpartition("/")[2].partition("#")[0]
        if last not in known and self._exists(last):
            raise LayerNotReachedError(
                f"layer {name!r} is part of {self._title}, but did not run for these inputs; "
                "choose a layer that runs"
            )
        raise UnknownLayerError(
            f"{self._title} has no layer {name!r}{suggest(name, known) or _examples(known)}"
        )


class KerasModel(GraphModel):
    """An opened Keras 3 model on the TensorFlow backend; see `gradcam_multi.spec.Model`.

    Weights are read when a trace runs, so that later training is seen. A change of the model's
    structure after the first run is not: open the model again.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._title = f"{type(model).__name__} {model.name!r}"
        super().__init__(declared(model))

    def _bind(self, inputs: Inputs) -> Bound:
        if self._declared is None:
            return bind_free(self._model, inputs)
        return super()._bind(inputs)

    def _trace(self, bound: Bound, batch: int | None) -> Graph:
        specs = [
            tf.TensorSpec((batch, *self._extents(place, tensor)), tensor.dtype)
            for place, tensor in enumerate(bound.tensors.values())
        ]
        kept: dict[str, Any] = {}
        form = bound.form

        def run(*tensors: tf.Tensor) -> Any:
            recorder.begin(tf.compat.v1.get_default_graph())
            kept["inputs"] = dict(zip(bound.tensors, tensors, strict=True))
            kept["result"] = form.call(self._model, kept["inputs"])
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

    def biases(self, inputs: Inputs) -> dict[str, Bias]:
        """Return the biases of Keras' own layers; see `gradcam_multi.spec.Biased`."""
        return biases_of(self._graph(self._bind(inputs)))

    def _extents(self, place: int, tensor: tf.Tensor) -> tuple[int | None, ...]:
        shape = tuple(tensor.shape) if self._declared is None else self._declared[0][place].shape
        return shape[1:]

    def _exists(self, name: str) -> bool:
        return any(layer.name == name for layer in parts(self._model))


def _examples(known: list[str]) -> str:
    return f"; it has {len(known)}, the last ones {', '.join(map(repr, known[-4:]))}"


def _named_outputs(result: Any, recorder: Recorder) -> dict[str, tf.Tensor]:
    flat = keras.tree.flatten_with_path(result)
    keys = [getattr(tensor, "name", None) for _, tensor in flat]
    names = output_names(flat, keys, recorder.calls, lambda tensor: tensor.name)
    return {
        name: tensor
        for name, (_, tensor) in zip(names, flat, strict=True)
        if tf.is_tensor(tensor) and (tensor.dtype.is_floating or tensor.dtype.is_integer)
    }
