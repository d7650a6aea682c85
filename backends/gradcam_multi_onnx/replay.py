"""Forward from some value on: the part of a model behind a layer, as a model of its own."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, numpy_helper

from gradcam_multi_onnx.external import load
from gradcam_multi_onnx.graph import HUGE, Graph, Type, reads, subgraphs
from gradcam_multi_onnx.session import as_float, make_session, run, threads_for

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = {"dtype", "output_dtype", "stash_type", "to"}


class Tail:
    """Everything that the results need behind one value, in the model's own operators.

    Half precision is widened to float32. `boundary` are the other values that it is fed with:
    those read behind the given one without depending on it. Weights of more than `least` elements
    are fed, too, where they can be.
    """

    def __init__(self, graph: Graph, given: str, results: Sequence[str], least: int = HUGE) -> None:
        self.given, self.results = given, tuple(results)
        moving = graph.dependents([given])
        fixed = frozenset(graph.variable - moving) | {given}
        nodes = [widened_node(node) for node in graph.between(results, fixed)]
        read = {name for node in nodes for name in reads(node)} | set(results)
        self.boundary = tuple(sorted((read & fixed) - {given}))
        inputs = [_value(name, graph.type(name).widened) for name in (given, *self.boundary)]
        self._lent = graph.lent(read, least)
        inputs += [
            onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in self._lent.items()
        ]
        outputs = [_value(name, graph.type(name).widened) for name in results if name != given]
        # Weights beside the model stay there, for ONNX Runtime to map, unless they are widened.
        model = graph.model(onnx.helper.make_graph(nodes, "tail", inputs, outputs))
        model.graph.initializer.extend(
            _widened_tensor(load(graph.source, t)) if t.data_type == TensorProto.FLOAT16 else t
            for t in graph.tensors((read & graph.weights) - set(self._lent), referenced=True)
        )
        threads = threads_for(model.graph, self._lent.values())
        self._session = make_session(
            model.SerializeToString(), graph.source.providers, graph.source.folder, threads
        )
        self._dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.type(given).widened.dtype)

    def __call__(
        self, value: NDArray[Any], boundary: Mapping[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Return the results for another value."""
        feeds = {name: as_float(boundary[name]) for name in self.boundary}
        feeds |= self._lent
        feeds[self.given] = np.asarray(value, dtype=self._dtype, order="C")
        computed = [name for name in self.results if name not in feeds]
        found = run(self._session, feeds, computed) if computed else {}
        return {name: found[name] if name in found else feeds[name] for name in self.results}


def _value(name: str, kind: Type) -> onnx.ValueInfoProto:
    # Without shapes: a tail runs for one item as well as for many.
    free = None if kind.shape is None else [None] * len(kind.shape)
    return onnx.helper.make_tensor_value_info(name, kind.dtype, free)


def _widened_tensor(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(as_float(numpy_helper.to_array(tensor)), tensor.name)


def widened_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """Return a copy of a node that computes in float32 where it did in half precision."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _widen(copy.attribute)
    for body in subgraphs(copy):
        for inner in body.node:
            inner.CopyFrom(widened_node(inner))
        _widen_values([*body.input, *body.output, *body.value_info])
        for tensor in body.initializer:
            tensor.CopyFrom(_widened_tensor(tensor))
    return copy


def _widen(attributes: Iterable[AttributeProto]) -> None:
    for attribute in attributes:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _HALF:
            attribute.i = TensorProto.FLOAT
        if attribute.HasField("t"):
            attribute.t.CopyFrom(_widened_tensor(attribute.t))


def _widen_values(values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        if value.type.tensor_type.elem_type in _HALF:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
