"""A model file is untrusted input: its structure is checked before anything else reads it.

What is native behind this (shape inference, inlining, ONNX Runtime) gets well-formed graphs only.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, NodeProto, TensorProto

from gradcam_multi.errors import ModelFileError
from gradcam_multi_onnx.external import byte_size, is_external

MOST_NODES = 1_000_000
"""Of a graph, bodies and inlined functions included; exporters stay below 50,000."""

MOST_SUBGRAPHS = 20
"""Nested in one another; exporters stay below five."""

_EXTENT = 1 << 48  # of one axis: beyond any memory, and far from overflow
_NUMBER = 1 << 31  # of an attribute that counts cells, groups or results
_COUNTING = {
    "blocksize", "dilations", "group", "kernel_shape", "num_heads", "num_outputs", "size",
    "strides",
}  # fmt: skip
"""Attributes that must be positive wherever they occur in ONNX's own operators."""

_MEMBERS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.SPARSE_TENSOR: "sparse_tensor",
    AttributeProto.TYPE_PROTO: "tp",
}
_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_TYPED = (
    ("float_data", {TensorProto.FLOAT: 1, TensorProto.COMPLEX64: 2}),
    ("double_data", {TensorProto.DOUBLE: 1, TensorProto.COMPLEX128: 2}),
    ("int64_data", {TensorProto.INT64: 1}),
    ("uint64_data", {TensorProto.UINT64: 1, TensorProto.UINT32: 1}),
    ("string_data", {TensorProto.STRING: 1}),
)


class _Damaged(Exception):
    """What is wrong, without the model's name."""


def validate(model: onnx.ModelProto, name: str) -> None:
    """Raise ModelFileError where a model's structure is damaged, in one line that calls it `name`.

    Checked are names and their uniqueness, the operators' numbers of inputs and outputs, types of
    attributes, tensors' sizes against their data, sizes of the graph and of its functions inlined.
    """
    try:
        versions = _versions(model.opset_import)
        size = _graph(model.graph, versions, 0)
        for function in model.functions:
            own = _versions(function.opset_import)
            for node in function.node:
                size += _node(node, own or versions, 0)
        _limit(size)
        _functions(model)
    except _Damaged as error:
        raise ModelFileError(f"{name} is damaged: {error}; export the model again") from error


def _versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    _texts(each.domain for each in imports)
    versions = {each.domain if each.domain != "ai.onnx" else "": each.version for each in imports}
    for domain, version in versions.items():
        if not 0 < version < _NUMBER:
            raise _Damaged(f"it imports version {version} of domain {domain or 'ai.onnx'!r}")
    return versions


def _limit(size: int) -> int:
    if size > MOST_NODES:
        raise _Damaged(f"it holds more than {MOST_NODES} nodes")
    return size


def _unique(names: Iterable[str], what: str, known: set[str]) -> None:
    for name in names:
        if name in known:
            raise _Damaged(f"{what} {name!r} is there twice")
        known.add(name)


def _texts(*groups: Iterable[str]) -> None:
    for group in groups:
        for text in group:
            if not isinstance(text, str):  # protobuf hands over bytes where they are no UTF-8
                raise _Damaged(f"its name {text!r} is no text")


def _graph(graph: onnx.GraphProto, versions: dict[str, int], depth: int) -> int:
    """Check one graph and return how many nodes it holds."""
    if depth > MOST_SUBGRAPHS:
        raise _Damaged(f"its graphs are nested more than {MOST_SUBGRAPHS} deep")
    values = (*graph.input, *graph.output, *graph.value_info)
    _texts((v.name for v in values), (t.name for t in graph.initializer), [graph.name])
    inputs: set[str] = set()
    _unique((v.name for v in graph.input), "input", inputs)
    made: set[str] = set()
    _unique((t.name for t in graph.initializer), "initialiser", made)
    _unique((t.values.name for t in graph.sparse_initializer), "initialiser", made)
    if "" in inputs | made:
        raise _Damaged("an input or initialiser has no name")
    for tensor in graph.initializer:
        _tensor(tensor)
    for sparse in graph.sparse_initializer:
        _tensor(sparse.values)
        _tensor(sparse.indices)
    for value in values:
        _value(value)
    made |= inputs
    size = 0
    for node in graph.node:
        _unique((name for name in node.output if name), "value", made)
        size += _node(node, versions, depth)
    for value in graph.output:
        if depth == 0 and value.name not in made:
            raise _Damaged(f"nothing makes its output {value.name!r}")
    return _limit(size)


def _value(value: onnx.ValueInfoProto) -> None:
    if not value.type.HasField("tensor_type"):
        return
    tensor = value.type.tensor_type
    _texts(dim.dim_param for dim in tensor.shape.dim)
    if tensor.elem_type and tensor.elem_type not in _TYPES:
        raise _Damaged(f"{value.name!r} has elements of unknown type {tensor.elem_type}")
    if len(tensor.shape.dim) > 64:
        raise _Damaged(f"{value.name!r} has {len(tensor.shape.dim)} axes")
    count = 1
    for dim in tensor.shape.dim:
        count *= max(dim.dim_value, 1)
    if count > _EXTENT:
        shape = [dim.dim_value for dim in tensor.shape.dim]
        raise _Damaged(f"{value.name!r} has the absurd shape {shape}")


def _tensor(tensor: TensorProto) -> None:
    what = f"tensor {tensor.name!r}"
    dims = list(tensor.dims)
    if tensor.data_type not in _TYPES:
        raise _Damaged(f"{what} has elements of unknown type {tensor.data_type}")
    count = 1
    for extent in dims:
        count *= extent
    if len(dims) > 64 or count > _EXTENT or any(not 0 <= extent <= _EXTENT for extent in dims):
        raise _Damaged(f"{what} has the absurd shape {dims[:8]}")
    if tensor.data_location not in (TensorProto.DEFAULT, TensorProto.EXTERNAL):
        raise _Damaged(f"{what} lies in an unknown place")
    if is_external(tensor):
        if byte_size(tensor) is None:
            raise _Damaged(f"{what} is external and has elements of no fixed size")
        return
    if tensor.HasField("raw_data"):
        expected = byte_size(tensor)
        found, unit = len(tensor.raw_data), "bytes"
        if expected is None:
            expected = found if tensor.data_type != TensorProto.STRING else -1
    else:
        found, expected, unit = _typed(tensor, count)
    if found != expected:
        raise _Damaged(f"{what} of shape {dims} needs {max(expected, 0)} {unit} and has {found}")


def _typed(tensor: TensorProto, count: int) -> tuple[int, int, str]:
    """Return how many numbers a tensor without raw bytes holds, and how many it must."""
    for member, types in _TYPED:
        if tensor.data_type in types:
            return len(getattr(tensor, member)), count * types[tensor.data_type], "elements"
    size = byte_size(tensor)
    packed = size is not None and size < count  # several small elements lie in one number
    return len(tensor.int32_data), size if packed and size is not None else count, "elements"


def _node(node: NodeProto, versions: dict[str, int], depth: int) -> int:
    """Check one node and return how many nodes it stands for, its bodies' included."""
    _texts(node.input, node.output, (a.name for a in node.attribute))
    _texts([node.name, node.op_type, node.domain])
    domain = "" if node.domain == "ai.onnx" else node.domain
    what = f"{node.op_type} {node.name or next(iter(node.output), '')!r}"
    schema = _schema(node.op_type, versions.get(domain, 0), domain)
    if not node.op_type:
        raise _Damaged(f"node {what} has no operator")
    if schema is not None:
        least, most, fewest, largest, known = schema
        if not least <= len(node.input) <= most or not fewest <= len(node.output) <= largest:
            raise _Damaged(f"{what} has {len(node.input)} inputs and {len(node.output)} outputs")
        absent = [name for name in node.input[:least] if not name]
        if absent and len(node.input) == least:
            raise _Damaged(f"{what} lacks an input")
    seen: set[str] = set()
    _unique((attribute.name for attribute in node.attribute), f"attribute of {what}", seen)
    if schema is not None:
        missing = sorted(
            name for name, (_, required) in known.items() if required and name not in seen
        )
        if missing:
            raise _Damaged(f"{what} lacks its attribute {missing[0]!r}")
    size = 1
    for attribute in node.attribute:
        if schema is not None and attribute.name in known:
            _attribute(attribute, known[attribute.name][0], what)
        if attribute.HasField("t"):
            _tensor(attribute.t)
        for tensor in attribute.tensors:
            _tensor(tensor)
        for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            size += _graph(body, versions, depth + 1)
    return size


def _attribute(attribute: AttributeProto, expected: int, what: str) -> None:
    name = attribute.name
    if attribute.ref_attr_name:
        return  # of a function: the caller's
    if attribute.type != expected:
        raise _Damaged(f"attribute {name!r} of {what} is of the wrong type")
    member = _MEMBERS.get(attribute.type)
    if member in ("t", "g", "sparse_tensor", "tp") and not attribute.HasField(member):
        raise _Damaged(f"attribute {name!r} of {what} is empty")
    if attribute.type == AttributeProto.STRING:
        try:
            attribute.s.decode()
        except UnicodeDecodeError as error:
            raise _Damaged(f"attribute {name!r} of {what} is no text") from error
    numbers = [attribute.i] if attribute.type == AttributeProto.INT else attribute.ints
    if name in _COUNTING and any(not 0 < n <= _NUMBER for n in numbers):
        raise _Damaged(f"attribute {name!r} of {what} must be positive, not {list(numbers)[:8]}")


@cache
def _schema(
    op: str, version: int, domain: str
) -> tuple[int, int, int, int, dict[str, tuple[int, bool]]] | None:
    """Return numbers of inputs and outputs, and attributes' types, or None where not known."""
    try:
        schema: Any = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None
    attributes = {
        name: (int(each.type.value), bool(each.required))
        for name, each in schema.attributes.items()
    }
    return (
        schema.min_input, schema.max_input, schema.min_output, schema.max_output, attributes,
    )  # fmt: skip


def _functions(model: onnx.ModelProto) -> None:
    """Check that functions call one another without circles, and stay small when inlined."""
    bodies: dict[tuple[str, str, str], onnx.FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, getattr(function, "overload", ""))
        if key in bodies:
            raise _Damaged(f"function {function.name!r} is there twice")
        bodies[key] = function
    sizes: dict[tuple[str, str, str], int] = {}
    open_: set[tuple[str, str, str]] = set()

    def count(nodes: Iterable[NodeProto], depth: int) -> int:
        if depth > MOST_SUBGRAPHS * 10:
            raise _Damaged("its functions call one another too deep")
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, getattr(node, "overload", ""))
            total = _limit(total + (called(key, depth + 1) if key in bodies else 1))
            for attribute in node.attribute:
                for body in (
                    *([attribute.g] if attribute.HasField("g") else ()),
                    *attribute.graphs,
                ):
                    total = _limit(total + count(body.node, depth + 1))
        return total

    def called(key: tuple[str, str, str], depth: int) -> int:
        if key in open_:
            raise _Damaged(f"function {key[1]!r} calls itself")
        if key not in sizes:
            open_.add(key)
            sizes[key] = count(bodies[key].node, depth)
            open_.remove(key)
        return sizes[key]

    if bodies:
        count(model.graph.node, 0)
        for key in bodies:
            called(key, 0)
