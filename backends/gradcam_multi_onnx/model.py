"""An ONNX model as the core sees it."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property, partial
from threading import RLock
from typing import Any

import onnx
import onnxruntime as ort
from onnx import TensorProto

from gradcam_multi.backward import (
    check_floating,
    check_rule,
    find_input,
    no_relu,
    not_guided,
)
from gradcam_multi.errors import (
    InputError,
    ModelFileError,
    UnknownLayerError,
    UnsupportedError,
    suggest,
)
from gradcam_multi.spec import Bias, Block, Inputs, Layer, Layout, ReluRule, TensorSpec
from gradcam_multi_onnx.autodiff.guided import GUIDED, rectifies
from gradcam_multi_onnx.biases import biases_of
from gradcam_multi_onnx.blocks import BlockPlan, OnnxBlocks
from gradcam_multi_onnx.channels import anchored, batch_axes, channel_axes
from gradcam_multi_onnx.check import check_plan
from gradcam_multi_onnx.ending import logits_of
from gradcam_multi_onnx.feeds import Feeds, batches, make_feeds
from gradcam_multi_onnx.graph import Graph, Type
from gradcam_multi_onnx.layers import aliases, find_layers, integer_convolutions
from gradcam_multi_onnx.plan import Plan, Values, make_plan
from gradcam_multi_onnx.session import on_cpu
from gradcam_multi_onnx.settle import settled, types_of
from gradcam_multi_onnx.source import Source
from gradcam_multi_onnx.trace import OnnxTrace

_PLANS = 4
"""Kept per model: each holds a session, and a session its own copy of all but huge weights."""

_SIZES = 1000  # shapes of inputs whose values' sizes are known to be sane

_DERIVED = ("_axes", "_batch_axes", "_listed", "_names", "inputs", "outputs", "_logits")
_NUMBERS = "fiub"
_NAMED = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}


class OnnxModel:
    """A model run by ONNX Runtime and differentiated by `autodiff`; safe to share among threads."""

    backend = "onnx"

    def __init__(self, source: Source) -> None:
        self._graph = Graph(source)
        self._lock = RLock()
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._ready: dict[Any, Any] = {}
        self._shaped: set[Any] = set()
        self._learned = False
        self._sane: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
        if not self.outputs:
            raise ModelFileError(f"{source.name} has no numeric output; nothing can be explained")
        if not self.inputs:
            raise ModelFileError(f"{source.name} takes no input; nothing can be explained")

    @property
    def framework(self) -> str:
        """The runtime, and what is to be known of the file."""
        rounds = any("Quantize" in node.op_type for node in self._graph.nodes)
        note = ", quantised: gradients pass straight through the rounding" if rounds else ""
        return f"ONNX Runtime {ort.__version__}, opset {self._graph.opsets.get('', '?')}{note}"

    @property
    def accelerated(self) -> bool:
        """Whether another processor than the CPU computes."""
        return not on_cpu(self._graph.source.providers)

    def side_by_side(self, threads: int) -> "OnnxModel | None":
        """Return the same model for runs at the same time; None where a GPU computes."""
        if self.accelerated:
            return None
        return OnnxModel(replace(self._graph.source, threads=threads))

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes, initialisers left out."""
        specs = []
        for value in self._graph.inputs:
            kind = self._graph.type(value.name)
            if kind.shape is None or kind.dtype not in _NAMED:
                raise ModelFileError(
                    f"input {value.name!r} of {self._graph.source.name} has no tensor type "
                    "with a shape; export the model with one"
                )
            spec = _spec(value.name, kind)
            specs.append(replace(spec, layout=self._layout(spec, self._axes.get(value.name))))
        return tuple(specs)

    def _layout(self, spec: TensorSpec, axis: int | None) -> Layout | None:
        rank = len(spec.shape)
        if rank < 3 or axis is None:
            return None
        small = (1, 3, 4)
        if not anchored(self._graph, spec.name) and axis == 1 and spec.shape[1] not in small:
            axis = rank - 1 if spec.shape[-1] in small else 1
        return "channels_last" if axis == rank - 1 else "channels_first"

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it returns, tensors of numbers only."""
        specs = []
        for value in self._graph.outputs:
            kind = self._graph.type(value.name)
            tensor = value.type.WhichOneof("value") in (None, "tensor_type")
            if tensor and kind.dtype and _dtype(kind.dtype).kind in _NUMBERS:
                activation = logits_of(self._graph, value.name)[1]
                specs.append(replace(_spec(value.name, kind), activation=activation))
        return tuple(specs)

    @cached_property
    def _logits(self) -> dict[str, str]:
        return {spec.name: logits_of(self._graph, spec.name)[0] for spec in self.outputs}

    @cached_property
    def _axes(self) -> dict[str, int]:
        return channel_axes(self._graph)

    @cached_property
    def _batch_axes(self) -> dict[str, int]:
        return batch_axes(self._graph)

    def layers(self, inputs: Inputs = None) -> tuple[Layer, ...]:
        """Every operation in execution order; a run tells only what shape inference cannot."""
        if inputs is not None:
            self._learn(make_feeds(self.inputs, inputs))
        listed = self._listed
        integer = integer_convolutions(self._graph)
        if integer and not any(layer.spatial for layer in listed):
            raise UnsupportedError(
                f"{self._graph.source.name} computes in integers throughout ({integer[0]}, "
                f"{len(integer)} convolutions in all), so that it has no feature map to explain; "
                "quantise it in the QDQ format instead (quant_format=QuantFormat.QDQ)"
            )
        return listed

    def biases(self, inputs: Inputs) -> dict[str, Bias]:
        """Return what is added to each channel of a layer; see `spec.Biased`."""
        return biases_of(self._graph, self.layers(inputs))

    @contextmanager
    def trace(
        self, inputs: Inputs, layers: Sequence[str], *, relu: ReluRule = "plain"
    ) -> Iterator[OnnxTrace]:
        """Run once and keep the results of the named layers."""
        guided = check_rule(relu)
        if guided:
            self._check_guided()
        targets = tuple(self._resolve(name) for name in layers)
        feeds = make_feeds(self.inputs, inputs)
        plan, ran = self._plan(targets, feeds)
        if guided:  # the plain one's gradients have been checked by differences: theirs are exact
            plan, ran = self._plan(targets, feeds, guided=True)
        cut = list(batches(self.inputs, feeds))
        own = {spec.name for spec in self.inputs}  # handed over as the model takes them
        axes = [
            (0, None) if name in own else (self._batch_axes.get(name, 0), self._axes.get(name))
            for name in targets
        ]
        runs = [plan.forward(part) if ran is None else ran for part, _ in cut]
        trace = OnnxTrace(plan, cut, runs, targets, axes, self._resolve, guided)
        try:
            yield trace
        finally:
            trace.close()

    @contextmanager
    def trace_blocks(self, inputs: Inputs, blocks: Sequence[Block]) -> Iterator[OnnxBlocks]:
        """Run once and keep the blocks; see `spec.Attentive`."""
        known = tuple(
            Block(self._resolve(block.attention), self._resolve(block.tokens)) for block in blocks
        )
        feeds = make_feeds(self.inputs, inputs)
        plan, ran = self._plan((known[-1].tokens,), feeds, blocks=known)
        cut = list(batches(self.inputs, feeds))
        runs = [plan.forward(part) if ran is None else ran for part, _ in cut]
        names = [block.tokens for block in known]
        axes = [(self._batch_axes.get(name, 0), self._axes.get(name)) for name in names]
        trace = OnnxBlocks(plan, cut, runs, names, axes, self._resolve)
        try:
            yield trace
        finally:
            trace.close()

    def _check_guided(self) -> None:
        nodes = self._graph.nodes
        if any("Quantize" in node.op_type or "QLinear" in node.op_type for node in nodes):
            raise not_guided(
                "a quantised model may hold its ReLU in what rounds to integers",
                "explain the model before it was quantised",
            )
        if not rectifies(self._graph, nodes):
            raise no_relu(self._graph.source.name)

    def _resolve(self, name: str) -> str:
        """Return the value of a layer, given its name or its node's, or that of an input."""
        names = self._names
        own = find_input(name, [spec.name for spec in self.inputs], names)
        if own is not None or any(spec.name == name for spec in self.inputs):
            dtype = next(spec.dtype for spec in self.inputs if spec.name == name)
            check_floating(name, dtype, self._graph.type(name).floating)
            return str(name)
        if name not in names:
            raise UnknownLayerError(
                f"the model has no layer {name!r}{suggest(name, names) or '; list them first'}"
            )
        return names[name]

    @cached_property
    def _listed(self) -> tuple[Layer, ...]:
        return find_layers(self._graph, self._logits, self._axes, self._batch_axes)

    @cached_property
    def _names(self) -> dict[str, str]:
        own = {v.name: v.name for v in self._graph.inputs}
        listed = {layer.name: layer.name for layer in self._listed}
        nodes = {name: v for name, v in aliases(self._graph).items() if v in listed}
        return {**nodes, **own, **listed}

    def _learn(self, feeds: Feeds) -> None:
        """Take from a run what shape inference could not tell, once."""
        with self._lock:
            if self._learned:
                return
            unknown = [
                name for name in sorted(self._graph.variable & set(self._graph.producer))
                if self._graph.type(name).shape is None
            ]  # fmt: skip
            if unknown:
                (found,) = types_of(self._graph, unknown, self._sample(feeds))
                self._graph.learn(found)
            before = self._graph
            if all(n is not None for spec in self.inputs for n in spec.shape[1:]):
                self._graph = self._settled(self._graph, feeds)
            for derived in _DERIVED if unknown or self._graph is not before else ():
                self.__dict__.pop(derived, None)
            self._learned = True

    def _for_size(self, feeds: Feeds) -> Graph:
        """Return the graph for inputs of one size, any number of them where the model allows."""
        shapes = {name: array.shape for name, array in feeds.items()}
        return self._settled(self._graph.with_shapes(shapes), feeds, measure=True)

    def _settled(self, graph: Graph, feeds: Feeds, *, measure: bool = False) -> Graph:
        free = [spec.name for spec in self.inputs if spec.shape and spec.shape[0] is None]
        return settled(graph, self._sample(feeds), free, measure=measure)

    def _check_size(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise UnsupportedError where one item of these shapes leads to values of absurd size."""
        key = tuple(shapes.items())
        if key not in self._sane and any(None in spec.shape for spec in self.inputs):
            self._graph.check_run(shapes)
            self._sane = {*self._sane, key} if len(self._sane) < _SIZES else {key}

    def _sample(self, feeds: Feeds) -> Feeds:
        """Return one item, or as many as the model is fixed to."""
        first, count = next(iter(batches(self.inputs, feeds)))
        if count == 1 or any(spec.shape and spec.shape[0] is not None for spec in self.inputs):
            return first
        return {name: array[:1] if array.ndim else array for name, array in first.items()}

    def _plan(
        self, targets: tuple[str, ...], feeds: Feeds, guided: bool = False,
        blocks: tuple[Block, ...] = (),
    ) -> tuple[Plan, Values | None]:  # fmt: skip
        """Return the plan, and what its forward run gives, if these very inputs were checked."""
        asked = (guided, blocks, targets, *((name, array.shape) for name, array in feeds.items()))
        with self._lock:
            # What was asked before is answered at once: small networks run for a few milliseconds.
            key, ran = self._ready.get(asked), None
            if key not in self._plans:
                key, ran = self._prepared(targets, feeds, guided, blocks)
                if len(self._ready) >= _SIZES:
                    self._ready.clear()
                if self._plans[key].checked:
                    self._ready[asked] = key
            self._plans.move_to_end(key)
            return self._plans[key], ran

    def _prepared(
        self, targets: tuple[str, ...], feeds: Feeds, guided: bool, blocks: tuple[Block, ...]
    ) -> tuple[Any, Values | None]:
        """Return the key of the plan, made and checked, and the values of `_plan`."""
        spatial = tuple((name, array.shape[1:]) for name, array in feeds.items())
        self._check_size({name: array.shape for name, array in self._sample(feeds).items()})
        self._learn(feeds)
        key = (guided, blocks, targets, spatial if (blocks, targets) in self._shaped else None)
        if key not in self._plans:
            plan, shaped = make_plan(
                self._graph, targets, self._logits, lambda: self._for_size(feeds),
                GUIDED if guided else None, partial(BlockPlan, blocks=blocks) if blocks else Plan,
            )  # fmt: skip
            plan.checked = guided
            if shaped:
                self._shaped.add((blocks, targets))
                key = (guided, blocks, targets, spatial)
            self._plans[key] = plan
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        plan, ran = self._plans[key], None
        if not plan.checked:
            sample = self._sample(feeds)
            run = cache(partial(plan.forward, sample))
            try:
                plan.checked = check_plan(plan, sample, run)
                ran = run() if sample is feeds else None
            except InputError:
                plan.checked = False  # the run itself will say what does not fit
            except ModelFileError:  # no session: nothing to keep
                del self._plans[key]
                raise
        return key, ran


def _dtype(code: int) -> Any:
    return onnx.helper.tensor_dtype_to_np_dtype(code)


def _spec(name: str, kind: Type) -> TensorSpec:
    return TensorSpec(name, kind.public or (), _dtype(kind.dtype).name)
