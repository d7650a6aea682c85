"""An ONNX graph to read: who makes a value, who reads it, what it is; never changed.

Weights are kept out of it: the skeleton holds small constants only, the others are fetched from
the source when a gradient graph needs them.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from math import prod
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from gradcam_multi.errors import InputError, ModelFileError, UnsupportedError
from gradcam_multi_onnx.external import (
    all_tensors,
    is_beside,
    is_external,
    load,
    load_array,
    locate,
)
from gradcam_multi_onnx.inference import FLOATS as FLOATS
from gradcam_multi_onnx.inference import Dim as Dim
from gradcam_multi_onnx.inference import Shape as Shape
from gradcam_multi_onnx.inference import Type as Type
from gradcam_multi_onnx.inference import infer
from gradcam_multi_onnx.limits import check_constants, check_values
from gradcam_multi_onnx.order import reads as reads
from gradcam_multi_onnx.order import sorted_nodes
from gradcam_multi_onnx.order import subgraphs as subgraphs
from gradcam_multi_onnx.session import make_session, on_cpu, one_line, run
from gradcam_multi_onnx.skeleton import SMALL, lift_constants, strip_weights
from gradcam_multi_onnx.source import Source
from gradcam_multi_onnx.validate import validate

HUGE = 1 << 23
"""Elements of a weight that is shared, between a classifier (2 million) and VGG's (100 million).

Those below are held by each session in the order that it reads fastest.
"""


def domain_of(name: str) -> str:
    """Return a domain as the registry writes it: ONNX's own has two names."""
    return "" if name == "ai.onnx" else name


class Graph:
    """The main graph of a model.

    `nodes` are in execution order. Raises ModelFileError where values are missing or circular.
    """

    def __init__(self, source: Source) -> None:
        model, source = source.outline()
        validate(model, source.name)
        source = locate(source, all_tensors(model))
        if model.functions:
            inlined = _inlined(source.parse(), source.name).SerializeToString()
            model, source = source.rewritten(inlined).outline()
        self.source = source
        lift_constants(model)
        initialized = {tensor.name for tensor in model.graph.initializer}
        self.weights = frozenset(initialized)
        self._read: WeakValueDictionary[str, NDArray[Any]] = WeakValueDictionary()
        own = [v.name for v in model.graph.input if v.name not in initialized]
        self.ir_version = model.ir_version
        self.exporter = model.producer_name
        self.opsets = {domain_of(o.domain): o.version for o in model.opset_import}
        self.skeleton = strip_weights(model)
        self.inputs = tuple(v for v in self.skeleton.graph.input if v.name in own)
        self.outputs = tuple(self.skeleton.graph.output)
        listed = list(self.skeleton.graph.node)
        self.nodes = sorted_nodes(self.skeleton.graph, source.name)
        if any(one is not other for one, other in zip(self.nodes, listed, strict=True)):
            copies = [NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
            del self.skeleton.graph.node[:]
            self.skeleton.graph.node.extend(copies)
            self.nodes = list(self.skeleton.graph.node)
        self._reads = {id(node): reads(node) for node in self.nodes}
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in self._reads[id(node)]:
                self.readers.setdefault(name, []).append(node)
        self._folded: dict[str, NDArray[Any]] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.skeleton.graph.initializer
        }
        self.types = infer(self.skeleton, source.name)
        check_constants(self)
        check_values(self, self.types, "any input")

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
            if not found.isdisjoint(self._reads[id(node)]):
                found.update(name for name in node.output if name)
        return frozenset(found)

    def ancestors(self, names: Iterable[str]) -> frozenset[str]:
        """Return the given values and all from which they are computed."""
        found = set(names)
        for node in reversed(self.nodes):
            if not found.isdisjoint(node.output):
                found.update(self._reads[id(node)])
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
        stored = {name for node in nodes for name in self._reads[id(node)]} | set(names)
        found = {t.name: self._array(source, t) for source, t in self._stored(set(names))}
        if computed:
            tensors = self.tensors(stored & self.weights)
            outputs = [onnx.ValueInfoProto(name=name) for name in computed]
            graph = onnx.helper.make_graph(nodes, "constants", [], outputs, tensors)
            session = make_session(self.model(graph).SerializeToString())
            try:
                found |= run(session, {}, computed)
            except InputError as error:
                raise ModelFileError(
                    f"the constants of {self.source.name} cannot be computed: "
                    f"{one_line(error.__cause__ or error)}; export the model again"
                ) from error
        return found

    def tensors(self, names: Iterable[str], *, referenced: bool = False) -> list[TensorProto]:
        """Return initialisers as stored; those beside the model are loaded, or left where they are.

        Those `referenced` need a session whose folder is the source's.
        """
        return [
            tensor if referenced and is_beside(tensor) else load(source, tensor)
            for source, tensor in self._stored(names)
        ]

    def _stored(self, names: Iterable[str]) -> Iterator[tuple[Source, TensorProto]]:
        """Yield initialisers, large ones without their elements, and where these are."""
        wanted = self.weights & set(names)
        if wanted:
            model, source = self.source.outline()
            lift_constants(model)
            yield from ((source, t) for t in model.graph.initializer if t.name in wanted)

    def lent(self, names: Iterable[str], least: int = HUGE) -> dict[str, NDArray[np.float32]]:
        """Return those weights that are shared by all who read them: huge ones, of products alone.

        None where sessions keep their values elsewhere than NumPy does. `least` is the number of
        elements beyond which a weight is huge.
        """
        found = {}
        wanted = self.products & set(names) if on_cpu(self.source.providers) else ()
        for source, tensor in self._stored(wanted):
            huge = tensor.data_type == TensorProto.FLOAT and prod(tensor.dims) > least
            if huge and is_external(tensor):
                found[tensor.name] = self._array(source, tensor)
        return found

    def _array(self, source: Source, tensor: TensorProto) -> NDArray[Any]:
        array = self._read.get(tensor.name)
        if array is None:
            array = self._read[tensor.name] = load_array(source, tensor)
        return array

    @cached_property
    def products(self) -> frozenset[str]:
        """Weights that are the second factor of matrix products and nothing else."""
        factors = {
            node.input[1] for node in self.nodes
            if node.op_type in ("Gemm", "MatMul") and not domain_of(node.domain)
        }  # fmt: skip
        results = {value.name for value in self.outputs}
        return frozenset(
            name for name in (factors & self.weights) - results
            if all(
                node.op_type in ("Gemm", "MatMul") and list(node.input).count(name) == 1
                and node.input[1] == name
                for node in self.readers[name]
            )
        )  # fmt: skip

    def beside(self, names: Iterable[str]) -> list[TensorProto]:
        """Return those large weights that lie beside the model in full precision, not loaded."""
        if not self.source.home:
            return []
        full = (TensorProto.FLOAT, TensorProto.DOUBLE)
        tensors = self.tensors(self.weights & set(names), referenced=True)
        return [
            tensor for tensor in tensors
            if is_beside(tensor) and tensor.data_type in full and prod(tensor.dims) > SMALL
        ]  # fmt: skip

    def between(self, results: Iterable[str], given: frozenset[str]) -> list[NodeProto]:
        """Return the nodes that compute the results from the given values, in execution order."""
        wanted, nodes = set(results) - given, []
        for node in reversed(self.nodes):
            if not wanted.isdisjoint(node.output):
                wanted.update(set(self._reads[id(node)]) - given)
                nodes.append(node)
        return nodes[::-1]

    def model(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        """Return a model around a graph of this model's own operators."""
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in self.opsets.items()]
        return onnx.helper.make_model(
            graph, opset_imports=opsets, ir_version=max(self.ir_version, 4)
        )

    def learn(self, types: Mapping[str, Type]) -> None:
        """Take element types and ranks from a run, for values that inference cannot tell."""
        for name, kind in types.items():
            free = tuple(f"{name}:{axis}" for axis in range(len(kind.shape or ())))
            self.types[name] = Type(kind.dtype, free)

    def with_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> "Graph":
        """Return the same graph with its types inferred for inputs of these shapes, batch free."""
        specialised = object.__new__(Graph)
        specialised.__dict__.update(self.__dict__)
        inferred = self._inferred(shapes, batch=False)
        # What a run told stays where inference, stopped by an operator it lacks, tells nothing.
        told = {n: k for n, k in inferred.items() if k.shape is not None or n not in self.types}
        specialised.types = {**self.types, **told}
        return specialised

    def check_run(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise UnsupportedError where inputs of these shapes lead to values of absurd size."""
        what = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        check_values(self, self._inferred(shapes, batch=True), what)

    def _inferred(self, shapes: Mapping[str, tuple[int, ...]], *, batch: bool) -> dict[str, Type]:
        skeleton = onnx.ModelProto()
        skeleton.CopyFrom(self.skeleton)
        del skeleton.graph.value_info[:]
        for value in skeleton.graph.input:
            for axis, n in enumerate(shapes.get(value.name, ())):
                dim = value.type.tensor_type.shape.dim[axis]
                if (axis or batch) and not dim.HasField("dim_value"):
                    dim.dim_value = n
        for output in skeleton.graph.output:
            output.type.tensor_type.ClearField("shape")
        return infer(skeleton, self.source.name)

    def refuse(self, node: NodeProto, reason: str) -> UnsupportedError:
        """Return the error that names a node, its operator and opset."""
        domain = node.domain or "ai.onnx"
        name = node.name or next(iter(node.output), "")
        return UnsupportedError(
            f"cannot differentiate {node.op_type} {name!r} ({domain} opset {self.opset(node)}): "
            f"{reason}"
        )


def _inlined(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    try:
        inlined = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # native code: its classes have no common root
        raise ModelFileError(
            f"the functions of {name} cannot be inlined: {one_line(error)}; export it without them"
        ) from error
    validate(inlined, name)
    return inlined
