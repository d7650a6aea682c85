"""Operators without a rule of their own, taken apart into standard ones that have rules.

Forward values inside a node that is taken apart do not exist in the forward run. Those that a
rule reads are computed again in the gradient graph, so the nodes written here are standard
operators as opset 18 has them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from gradcam_multi_onnx.autodiff.builder import IR_VERSION, OPSET
from gradcam_multi_onnx.autodiff.registry import Refusal
from gradcam_multi_onnx.autodiff.site import Forward
from gradcam_multi_onnx.graph import Type, domain_of, subgraphs
from gradcam_multi_onnx.replay import widened_node

_ROUNDS = 12  # of functions inside functions
_OWN = "gradcam_multi"  # the domain of functions written here
_LATER = {"saturate", "round_mode"}  # attributes of casts to and from float8, which do not matter


@dataclass
class Body:
    """What computes a node's results: nodes, constants, and which results they are.

    `results` maps the body's names to the node's outputs; other names that the nodes make are
    the body's own.
    """

    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)


class Parts:
    """Writes the parts of one node: what a lowering is given.

    Inputs and results of the parts are value names, "" where absent.
    """

    def __init__(self, graph: Forward, node: NodeProto) -> None:
        self.graph, self.node, self.body = graph, node, Body()
        self._attributes = {a.name: a for a in node.attribute}

    def __getitem__(self, place: int) -> str:
        """Return the name of an input, "" where absent."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, strings as text, or the default."""
        if name not in self._attributes:
            return default
        value = onnx.helper.get_attribute_value(self._attributes[name])
        return value.decode() if isinstance(value, bytes) else value

    def kept(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those of some attributes that the node has."""
        return {name: self.attribute(name) for name in names if name in self._attributes}

    def rank(self, place: int) -> int:
        """Return an input's number of axes."""
        shape = self.graph.type(self[place]).shape
        if shape is None:
            raise Refusal(f"the rank of {self[place]!r} is not known")
        return len(shape)

    def constant(self, content: Any, dtype: Any = None) -> str:
        """Return the name of a constant, of the first input's type where that is floating."""
        kind = self.graph.type(self[0]).widened
        if dtype is None:
            dtype = np.float64 if kind.dtype == onnx.TensorProto.DOUBLE else np.float32
        name = f"constant_{len(self.body.constants)}"
        self.body.constants[name] = np.asarray(content, dtype)
        return name

    def write(self, op: str, *inputs: str, results: int = 1, **attributes: Any) -> list[str]:
        """Write one standard operator and return its results' names."""
        names = [f"part_{len(self.body.nodes)}_{place}" for place in range(results)]
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        self.body.nodes.append(onnx.helper.make_node(op, given, names, **attributes))
        return names

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Write one standard operator and return its result's name."""
        return self.write(op, *inputs, **attributes)[0]

    def give(self, *names: str) -> None:
        """State which values are the node's results, in order."""
        for name, output in zip(names, self.node.output, strict=False):
            if output:
                self.body.results[name] = output

    def refuse(self, reason: str) -> NoReturn:
        """Refuse to take this node apart."""
        raise Refusal(reason)


Lowering: TypeAlias = Callable[[Parts], None]


def lowered(graph: Forward, node: NodeProto, lowering: Lowering) -> Body:
    """Return a node's body as a registered lowering writes it."""
    parts = Parts(graph, node)
    lowering(parts)
    return parts.body


def has_function(node: NodeProto, opset: int) -> bool:
    """Return whether ONNX itself defines an operator by others."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain_of(node.domain))
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def function_body(graph: Forward, node: NodeProto) -> Body:
    """Return a node's body as ONNX defines the operator."""
    copy = widened_node(node)
    constants = _small(graph, {name for name in node.input if name})
    results = {name: name for name in node.output if name}
    function = None
    if "" in copy.input:  # ONNX's inliner wants the type of every input
        function = _without_absent(graph, copy)
    model = _model(graph, [copy], list(results), constants)
    if function is not None:
        model.functions.append(function)
        model.opset_import.append(onnx.helper.make_opsetid(_OWN, 1))
        model = onnx.inliner.inline_local_functions(model)
    return _standard(graph, model, results, constants)


def _without_absent(graph: Forward, node: NodeProto) -> onnx.FunctionProto:
    """Return what defines a node as a function of the inputs it has, and have the node call it."""
    opset, given = graph.opset(node), [name for name in node.input if name]
    types = [value_info(n, graph.type(n)).type if n else onnx.TypeProto() for n in node.input]
    schema = onnx.defs.get_schema(node.op_type, opset, domain_of(node.domain))
    data = schema.get_function_with_opset_version(opset)
    if schema.has_context_dependent_function:
        data = schema.get_context_dependent_function_with_opset_version(
            opset, node.SerializeToString(), [kind.SerializeToString() for kind in types]
        )
    if not data:
        raise Refusal("an optional input before its last one is absent")
    function = onnx.FunctionProto.FromString(data)
    present = [f for f, own in zip(function.input, node.input, strict=False) if own]
    absent = set(function.input) - set(present)
    for part in function.node:
        part.input[:] = ["" if name in absent else name for name in part.input]
    function.input[:], node.input[:] = present, given
    function.domain = node.domain = _OWN
    return function


def branch_body(graph: Forward, node: NodeProto) -> Body:
    """Return the branch of an If whose condition is the same for every input."""
    if not graph.constant(node.input[0]):
        raise Refusal("its condition depends on the model's input")
    chosen = bool(graph.arrays([node.input[0]])[node.input[0]])
    name = "then_branch" if chosen else "else_branch"
    branch = next(a.g for a in node.attribute if a.name == name)
    constants = {t.name: numpy_helper.to_array(t) for t in branch.initializer}
    nodes = [widened_node(inner) for inner in branch.node]
    results: dict[str, str] = {}
    for value, output in zip(branch.output, node.output, strict=True):
        # An output that the branch only hands on, or hands out twice, gets a node of its own.
        handed = f"{value.name}/{output}"
        nodes.append(onnx.helper.make_node("Identity", [value.name], [handed]))
        results[handed] = output
    model = _model(graph, nodes, list(results), constants)
    return _standard(graph, model, results, constants)


def _small(graph: Forward, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Return constants that tell shapes and settings: integers and truth values."""
    found = [n for n in names if graph.constant(n) and not graph.type(n).floating]
    return {n: a for n, a in graph.arrays(found).items() if a.size <= 4096}


def inputs_of(nodes: Iterable[NodeProto]) -> Iterator[str]:
    """Yield what the nodes read of the graph around them."""
    made: set[str] = {""}
    for node in nodes:
        for name in read_by(node):
            if name not in made:
                made.add(name)
                yield name
        made.update(node.output)


def read_by(node: NodeProto) -> list[str]:
    """Return all names that a node reads, those of its bodies included."""
    names = list(node.input)
    for body in subgraphs(node):
        own = {v.name for v in (*body.input, *body.initializer)}
        own |= {name for inner in body.node for name in inner.output}
        taken = [name for inner in body.node for name in read_by(inner)]
        names += [n for n in (*taken, *(v.name for v in body.output)) if n not in own]
    return names


def value_info(name: str, kind: Type) -> onnx.ValueInfoProto:
    """Return a typed value, half precision widened."""
    wide = kind.widened
    return onnx.helper.make_tensor_value_info(name, wide.dtype, wide.shape)


def _model(
    graph: Forward, nodes: list[NodeProto], results: list[str],
    constants: Mapping[str, NDArray[Any]],
) -> onnx.ModelProto:  # fmt: skip
    given = [n for n in inputs_of(nodes) if n not in constants]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    inputs = [value_info(name, graph.type(name)) for name in given]
    outputs = [
        value_info(n, graph.type(n)) if graph.type(n).shape is not None
        else onnx.ValueInfoProto(name=n) for n in results
    ]  # fmt: skip
    body = onnx.helper.make_graph(nodes, "body", inputs, outputs, tensors)
    for tensor in tensors:  # the inliner reads no types from initialisers
        body.value_info.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return graph.model(body)


def _standard(
    graph: Forward, model: onnx.ModelProto, results: dict[str, str],
    constants: dict[str, NDArray[Any]],
) -> Body:  # fmt: skip
    """Inline functions until only operators of the written opset are left."""
    first = {(domain_of(n.domain), n.op_type) for n in model.graph.node if n.op_type != "Identity"}
    opset = next((o.version for o in model.opset_import if not o.domain), OPSET)
    kinds = first if len(model.graph.node) == 1 else set()
    for _ in range(_ROUNDS):
        kinds |= {
            (domain_of(n.domain), n.op_type) for n in model.graph.node
            if not _known(n, opset) and has_function(n, opset)
        }  # fmt: skip
        if not kinds:
            break
        try:
            model = onnx.inliner.inline_selected_functions(
                model, sorted(kinds), exclude=False, inline_schema_functions=True
            )
        except Exception as error:
            raise Refusal(
                f"its definition by other operators fails: {' '.join(str(error).split())}"
            ) from error
        kinds = set()
    if opset < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:
            raise Refusal(f"its body cannot be read as opset {OPSET}") from error
    nodes = []
    for node in model.graph.node:
        if not _known(node, max(opset, OPSET)):
            raise Refusal(f"its body needs {node.op_type}, which opset {OPSET} lacks")
        for attribute in [a for a in node.attribute if a.name in _LATER]:
            node.attribute.remove(attribute)
        nodes.append(node)
    constants |= {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return Body(nodes, constants, results)


def _known(node: NodeProto, opset: int) -> bool:
    """Return whether an operator means the same in the written opset, for all we can see."""
    if domain_of(node.domain):
        return False
    try:
        old = onnx.defs.get_schema(node.op_type, min(opset, OPSET), "")
    except onnx.defs.SchemaError:
        return False
    unknown = {a.name for a in node.attribute} - set(old.attributes) - _LATER
    return not unknown and len(node.input) <= old.max_input


def mini_model(
    nodes: list[NodeProto], inputs: list[onnx.ValueInfoProto],
    constants: Mapping[str, NDArray[Any]], results: Iterable[str],
) -> onnx.ModelProto:  # fmt: skip
    """Return a model of the written opset around some nodes."""
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    graph = onnx.helper.make_graph(nodes, "parts", inputs, outputs, tensors)
    opset = onnx.helper.make_opsetid("", OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
