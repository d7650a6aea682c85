"""A node that was taken apart, seen as a small forward graph inside the forward graph."""

from collections import ChainMap
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from gradcam_multi.errors import GradcamError, UnsupportedError
from gradcam_multi_onnx.autodiff.builder import IR_VERSION, OPSET, Builder
from gradcam_multi_onnx.autodiff.lowering import Body, inputs_of, mini_model, read_by, value_info
from gradcam_multi_onnx.autodiff.site import Forward
from gradcam_multi_onnx.autodiff.values import count
from gradcam_multi_onnx.graph import Type
from gradcam_multi_onnx.session import make_session, run

_SMALL = 4096  # elements that are worth folding: shapes and settings, not weights


class Scope:
    """The parts of one node, with the graph around them; parts are named anew.

    The parts are written into the gradient graph as well: rules may read their values, and what
    none reads is pruned.
    """

    def __init__(self, graph: Forward, builder: Builder, node: NodeProto, body: Body) -> None:
        self._graph, self._node, self._builder = graph, node, builder
        self._names: dict[str, str] = dict(body.results)
        self._arrays: dict[str, NDArray[Any]] = {}
        for name, array in body.constants.items():
            self._arrays[self._own(builder, name)] = np.asarray(array)
        for part in body.nodes:
            for name in part.output:
                if name and name not in self._names:
                    self._own(builder, name)
        self.nodes = [self._renamed(part) for part in body.nodes]
        own = {name: part for part in self.nodes for name in part.output if name}
        self._made = set(own)
        self.producer = ChainMap(own, graph.producer)
        self._inner = self._made - set(node.output)
        self._moving: set[str] = set()
        self.types: dict[str, Type] = {}
        self._fold()
        self._write(builder)

    def _own(self, builder: Builder, name: str) -> str:
        self._names[name] = builder.fresh("part")
        return self._names[name]

    def _renamed(self, part: NodeProto) -> NodeProto:
        copy = NodeProto()
        copy.CopyFrom(part)
        _rename(copy, self._names)
        copy.name = ""
        return copy

    def _infer(self, nodes: list[NodeProto]) -> dict[str, Type]:
        known = {name: array for name, array in self._arrays.items() if array.size <= _SMALL}
        for name in inputs_of(nodes):
            if name not in self._arrays and self._setting(name):
                known |= self._graph.arrays([name])
        inputs = [value_info(n, self.type(n)) for n in inputs_of(nodes) if n not in known]
        model = mini_model(nodes, inputs, known, self._made)
        try:
            model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # then ranks are missing, and whoever needs them says so
            return {}
        return _types(model.graph, self._builder.fresh("extents"))

    def _setting(self, name: str) -> bool:
        """Return whether a value of the graph around is a small constant of integers."""
        shape = self._graph.type(name).shape
        if self._graph.type(name).floating or shape is None or not self._graph.constant(name):
            return False
        size = count(shape)
        return size is not None and size <= _SMALL

    def _fold(self) -> None:
        """Infer types, compute what is constant, and so on until nothing changes."""
        waiting = self.nodes
        while True:
            self.types |= self._infer(self.nodes)
            late = [part for part in waiting if not self._folded(part)]
            if len(late) == len(waiting):
                break
            waiting = late
        self.nodes = waiting
        moving: set[str] = set()
        for part in self.nodes:
            inputs = [name for name in read_by(part) if name]
            if any(n in moving or not self.constant(n) for n in inputs):
                moving.update(part.output)
            self._moving = moving

    def _folded(self, part: NodeProto) -> bool:
        """Compute a part's results where they are small and do not depend on the input."""
        # ONNX Runtime would fuse the dequantised weight's product into one that rounds the other
        # factor, the cotangent, to 8 bits; so weights are dequantised here.
        most = None if part.op_type == "DequantizeLinear" else _SMALL
        if part.op_type in ("Shape", "Size"):
            shape = self.type(part.input[0]).shape
            if shape is None or not all(isinstance(n, int) for n in shape):
                return False
            feeds = {part.input[0]: np.zeros(tuple(map(int, shape)), np.bool_)}
        else:
            names = [name for name in read_by(part) if name]
            feeds = {}
            for name in names:
                if name in self._arrays:
                    feeds[name] = self._arrays[name]
                elif name not in self._made and self._graph.constant(name):
                    shape = self._graph.type(name).shape
                    size = None if shape is None else count(shape)
                    if size is None or (most is not None and size > most):
                        return False
                    feeds[name] = self._graph.arrays([name])[name]
                else:
                    return False
        if set(part.output) & set(self._node.output):
            return False
        found = _evaluate(part, feeds)
        if found is None or any(most is not None and a.size > most for a in found.values()):
            return False
        self._arrays |= found
        return True

    def _write(self, builder: Builder) -> None:
        for name, array in self._arrays.items():
            builder.tensors[name] = numpy_helper.from_array(array, name)
        for part in self.nodes:
            if self._inner.isdisjoint(part.output):
                continue  # the forward run has its results
            copy = NodeProto()
            copy.CopyFrom(part)
            for place, name in enumerate(part.output):
                if name and name not in self._inner:
                    copy.output[place] = builder.fresh("unused")
            builder.nodes.append(copy)

    # The forward graph's interface.

    def opset(self, node: NodeProto) -> int:
        """Return the operator-set version under which a part is to be read."""
        return OPSET if not node.domain else self._graph.opset(node)

    def type(self, name: str) -> Type:
        """Return what is known of a value."""
        if name in self._arrays:
            array = self._arrays[name]
            return Type(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        if name in self._inner:
            return self.types.get(name, Type(onnx.TensorProto.FLOAT, None))
        outer = self._graph.type(name)
        if outer.shape is None and name in self.types:
            return self.types[name]
        return outer

    def constant(self, name: str) -> bool:
        """Return whether a value is the same for every input."""
        if name in self._inner:
            return name in self._arrays or name not in self._moving
        return name in self._arrays or self._graph.constant(name)

    def arrays(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the values of constants."""
        found = {}
        for name in names:
            if name in self._arrays:
                found[name] = self._arrays[name]
            elif name in self._inner:
                found[name] = self._computed(name)
            else:
                found |= self._graph.arrays([name])
        return found

    def _computed(self, name: str) -> NDArray[Any]:
        part = next(part for part in self.nodes if name in part.output)
        feeds = self.arrays([n for n in read_by(part) if n])
        computed = _evaluate(part, feeds)
        if computed is None:
            raise UnsupportedError(f"{name!r} inside {self._node.op_type} cannot be computed")
        self._arrays |= computed
        return computed[name]

    def model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        """Return a model around a graph of the parts' operators."""
        opset = onnx.helper.make_opsetid("", OPSET)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def _types(graph: onnx.GraphProto, prefix: str) -> dict[str, Type]:
    """Return inferred types; symbols that inference invented are made unique by the prefix."""
    types = {}
    for value in (*graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.elem_type:
            continue
        if not tensor.HasField("shape"):
            types[value.name] = Type(tensor.elem_type, None)
            continue
        shape: list[int | str] = []
        for axis, d in enumerate(tensor.shape.dim):
            symbol = d.dim_param
            if symbol.startswith("unk__"):
                symbol = f"{prefix}:{symbol}"
            known = d.HasField("dim_value")
            shape.append(d.dim_value if known else symbol or f"{prefix}:{value.name}:{axis}")
        types[value.name] = Type(tensor.elem_type, tuple(shape))
    return types


def _rename(node: NodeProto, names: dict[str, str]) -> None:
    for place, name in enumerate(node.input):
        node.input[place] = names.get(name, name)
    for place, name in enumerate(node.output):
        node.output[place] = names.get(name, name)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") else ():
            own = {v.name for v in (*body.input, *body.initializer)}
            own |= {name for inner in body.node for name in inner.output}
            outer = {old: new for old, new in names.items() if old not in own}
            for inner in body.node:
                _rename(inner, outer)
            for value in body.output:
                value.name = outer.get(value.name, value.name)


def _evaluate(
    part: NodeProto, feeds: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]] | None:  # fmt: skip
    from onnx.reference import ReferenceEvaluator  # 11 MB that few models need

    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feeds.items()
    ]
    results = [name for name in part.output if name]
    model = mini_model([part], inputs, {}, results)
    try:
        found = ReferenceEvaluator(model).run(results, feeds)
    except Exception:  # the reference lacks some operators in older versions, the runtime in newer
        try:
            found = list(run(make_session(model.SerializeToString()), feeds, results).values())
        except GradcamError:
            return None  # it stays as it is
    return {name: np.asarray(array) for name, array in zip(results, found, strict=True)}
