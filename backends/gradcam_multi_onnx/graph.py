"""An ONNX graph to read: who makes a value, who reads it, what it is; never changed.

Weights are kept out of it: the skeleton holds small constants only, the others are fetched from
the source when a gradient graph needs them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from gradcam_multi.errors import ModelFileError, UnsupportedError
from gradcam_multi_onnx.session import make_session, run
from gradcam_multi_onnx.skeleton import SMALL, lift_constants, strip_weights
from gradcam_multi_onnx.source import Source

Dim = int | str
Shape = tuple[Dim, ...]
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}


@dataclass(frozen=True, slots=True)
class Type:
    """Element type and shape of a value; free extents are symbols; None where the rank is free."""

    dtype: int
    shape: Shape | None

    @property
    def floating(self) -> bool:
        """Whether gradients can flow through values of this type."""
        return self.dtype in FLOATS

    @property
    def public(self) -> tuple[int | None, ...] | None:
        """The shape with None for symbols."""
        if self.shape is None:
            return None
        return tuple(n if isinstance(n, int) else None for n in self.shape)

    @property
    def widened(self) -> "Type":
        """The same with half precision replaced by float32."""
        return replace(self, dtype=TensorProto.FLOAT) if self.dtype in _HALF else self


def domain_of(name: str) -> str:
    """Return a domain as the registry writes it: ONNX's own has two names."""
    return "" if name == "ai.onnx" else name


def subgraphs(node: NodeProto) -> list[onnx.GraphProto]:
    """Return the bodies that a control-flow node carries."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return bodies + [g for attribute in node.attribute for g in attribute.graphs]


def reads(node: NodeProto) -> tuple[str, ...]:
    """Return the values that a node reads, those captured by its bodies included."""
    names = [name for name in node.input if name]
    for body in subgraphs(node):
        made = {v.name for v in (*body.input, *body.initializer)}
        made |= {name for inner in body.node for name in inner.output}
        taken = [name for inner in body.node for name in reads(inner)]
        names += [n for n in (*taken, *(v.name for v in body.output)) if n not in made]
    return tuple(dict.fromkeys(names))


class Graph:
    """The main graph of a model.

    `nodes` are in execution order. Raises ModelFileError where values are missing or circular.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        model = source.parse()
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
            self.source = source = replace(
                source, data=model.SerializeToString(), path=None, stamp=(0, 0)
            )
        lift_constants(model)
        initialized = {tensor.name for tensor in model.graph.initializer}
        self.weights = frozenset(initialized)
        self.inputs = tuple(v for v in model.graph.input if v.name not in initialized)
        self.outputs = tuple(v for v in model.graph.output)
        self.ir_version = model.ir_version
        self.opsets = {domain_of(o.domain): o.version for o in model.opset_import}
        self.skeleton = strip_weights(model)
        self.nodes = _sorted(self.skeleton.graph, self.source.name)
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self._folded: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.skeleton.graph.initializer
        }
        self.types = _infer(self.skeleton)

    def opset(self, node: NodeProto) -> int:
        """Return the operator-set version under which a node is to be read."""
        version: int = self.opsets.get(domain_of(node.domain), 1)
        return version

    def type(self, name: str) -> Type:
        """Return what is known of a value; where nothing is, a floating type of unknown rank."""
        return self.types.get(name, Type(TensorProto.FLOAT, None))

    @cached_property
    def variable(self) -> frozenset[str]:
        """Values that depend on the model's inputs, the inputs among them."""
        return self.dependents(v.name for v in self.inputs)

    def dependents(self, names: Iterable[str]) -> frozenset[str]:
        """Return the given values and all that are computed from them."""
        found = set(names)
        for node in self.nodes:
            if not found.isdisjoint(reads(node)):
                found.update(name for name in node.output if name)
        return frozenset(found)

    def ancestors(self, names: Iterable[str]) -> frozenset[str]:
        """Return the given values and all from which they are computed."""
        found = set(names)
        for node in reversed(self.nodes):
            if not found.isdisjoint(node.output):
                found.update(reads(node))
        return frozenset(found)

    def constant(self, name: str) -> bool:
        """Return whether a value is the same for every input."""
        return name not in self.variable

    def arrays(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Return the values of constants: initialisers, or whatever is computed from them only."""
        wanted = list(dict.fromkeys(names))
        absent = [name for name in wanted if name not in self._folded]
        found = {name: self._folded[name] for name in wanted if name not in absent}
        if absent:
            fetched = self._fetch(absent)
            found |= fetched
            self._folded |= {name: a for name, a in fetched.items() if a.size <= SMALL}
        return {name: found[name] for name in wanted}

    def _fetch(self, names: list[str]) -> dict[str, NDArray[Any]]:
        computed = [name for name in names if name not in self.weights]
        nodes = self.between(computed, frozenset())
        stored = {name for node in nodes for name in reads(node)} | set(names)
        tensors = self.tensors(stored & self.weights)
        found = {t.name: numpy_helper.to_array(t) for t in tensors if t.name in names}
        if computed:
            outputs = [onnx.ValueInfoProto(name=name) for name in computed]
            graph = onnx.helper.make_graph(nodes, "constants", [], outputs, tensors)
            session = make_session(self.model(graph).SerializeToString())
            found |= run(session, {}, computed)
        return found

    def tensors(self, names: Iterable[str]) -> list[TensorProto]:
        """Return initialisers as stored, external ones loaded from the model's folder only."""
        wanted = set(names)
        if not wanted:
            return []
        model = self.source.parse()
        lift_constants(model)
        tensors = [t for t in model.graph.initializer if t.name in wanted]
        for tensor in tensors:
            if tensor.data_location == TensorProto.EXTERNAL:
                try:
                    onnx.external_data_helper.load_external_data_for_tensor(
                        tensor, self.source.folder
                    )
                except Exception as error:
                    raise ModelFileError(
                        f"the weights of {tensor.name!r} cannot be read from the external data of "
                        f"{self.source.name}: {' '.join(str(error).split())}"
                    ) from error
                tensor.data_location = TensorProto.DEFAULT
        return tensors

    def between(self, results: Iterable[str], given: frozenset[str]) -> list[NodeProto]:
        """Return the nodes that compute the results from the given values, in execution order."""
        wanted, nodes = set(results) - given, []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output):
                wanted.update(set(reads(node)) - given)
                nodes.append(node)
        return nodes[::-1]

    def model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        """Return a model around a graph of this model's own operators."""
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        return onnx.helper.make_model(
            graph, opset_imports=opsets, ir_version=max(self.ir_version, 4)
        )

    def learn(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Take element types and ranks from a run, for values that inference cannot tell."""
        for name, array in values.items():
            dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            free = tuple(f"{name}:{axis}" for axis in range(array.ndim))
            self.types[name] = Type(dtype, free)

    def with_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> "Graph":
        """Return the same graph with its types inferred for inputs of these shapes, batch free."""
        skeleton = onnx.ModelProto()
        skeleton.CopyFrom(self.skeleton)
        del skeleton.graph.value_info[:]
        for value in skeleton.graph.input:
            for axis, n in enumerate(shapes.get(value.name, ())):
                dim = value.type.tensor_type.shape.dim[axis]
                if axis and not dim.HasField("dim_value"):
                    dim.dim_value = n
        for output in skeleton.graph.output:
            output.type.tensor_type.ClearField("shape")
        specialised = object.__new__(Graph)
        specialised.__dict__.update(self.__dict__)
        specialised.types = {**self.types, **_infer(skeleton)}
        return specialised

    def refuse(self, node: NodeProto, reason: str) -> UnsupportedError:
        """Return the error that names a node, its operator and opset."""
        domain = node.domain or "ai.onnx"
        name = node.name or next(iter(node.output), "")
        return UnsupportedError(
            f"cannot differentiate {node.op_type} {name!r} ({domain} opset {self.opset(node)}): "
            f"{reason}"
        )


def _sorted(graph: onnx.GraphProto, source: str) -> list[NodeProto]:
    known = {v.name for v in (*graph.input, *graph.initializer)}
    known |= {v.values.name for v in graph.sparse_initializer}
    waiting, done = list(graph.node), []
    while waiting:
        late = []
        for node in waiting:
            if known.issuperset(reads(node)):
                known.update(node.output)
                done.append(node)
            else:
                late.append(node)
        if len(late) == len(waiting):
            missing = next(name for name in reads(late[0]) if name not in known)
            raise ModelFileError(
                f"{source} is damaged: {late[0].op_type} {late[0].name!r} reads {missing!r}, which "
                "nothing makes before it; export the model again"
            )
        waiting = late
    return done


def _infer(skeleton: onnx.ModelProto) -> dict[str, Type]:
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:  # what inference cannot tell is learned from a run
        inferred = skeleton
    graph, types = inferred.graph, {}
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.type.HasField("tensor_type"):
            types[value.name] = _type(value)
    for tensor in graph.initializer:
        types[tensor.name] = Type(tensor.data_type, tuple(tensor.dims))
    return types


def _type(value: onnx.ValueInfoProto) -> Type:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return Type(tensor.elem_type, None)
    return Type(
        tensor.elem_type,
        tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or f"{value.name}:{axis}"
            for axis, d in enumerate(tensor.shape.dim)
        ),
    )
