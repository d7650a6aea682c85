"""The model as the exported file holds it: self-contained, standard operators, a recent opset."""

from collections.abc import Iterable, Mapping

import onnx
from onnx import NodeProto

from gradcam_multi.errors import ExportError, UnsupportedError
from gradcam_multi_onnx.external import byte_size, is_external, load, locate
from gradcam_multi_onnx.graph import subgraphs
from gradcam_multi_onnx.session import one_line
from gradcam_multi_onnx.source import Source

IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10}
"""Opsets that a file may have, with the IR version that came with each."""

_LIMIT = (1 << 31) - (1 << 24)  # what protobuf holds, less what the explanation adds
_STANDARD = ("", "ai.onnx")


def self_contained(source: Source) -> onnx.ModelProto:
    """Return the model with its weights inside and its functions inlined.

    Raises ExportError beyond 2 GB, ModelFileError where external data cannot be read.
    """
    model = source.parse()
    outside = [tensor for tensor in model.graph.initializer if is_external(tensor)]
    size = model.ByteSize() + sum(byte_size(tensor) or 0 for tensor in outside)
    if size > _LIMIT:
        raise ExportError(
            f"{source.name} holds {size / 1e9:.1f} GB with its external data: an exported file is "
            "one of at most 2 GB; use gradcam explain, or a model in half precision"
        )
    source = locate(source, outside)
    for tensor in outside:
        tensor.CopyFrom(load(source, tensor))
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _refuse_foreign(model.graph.node)
    return model


def _refuse_foreign(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        if node.domain not in _STANDARD:
            raise UnsupportedError(
                f"{node.op_type} {node.name!r} is of the domain {node.domain!r}: an exported file "
                "holds standard operators only; export the model again without optimisation for "
                "one runtime"
            )
        for body in subgraphs(node):
            _refuse_foreign(body.node)


def opset_of(model: onnx.ModelProto) -> int:
    """Return the opset of a model's standard operators."""
    return max((o.version for o in model.opset_import if o.domain in _STANDARD), default=1)


def converted(model: onnx.ModelProto, opset: int | None) -> onnx.ModelProto:
    """Return the model in an opset from 18 to 21: its own where it can be, else the nearest.

    Whether the conversion keeps the values is checked with all the rest, on real runs. Raises
    ExportError for another opset, UnsupportedError where an operator cannot be converted.
    """
    allowed = sorted(IR_VERSIONS)
    if opset is not None and opset not in IR_VERSIONS:
        raise ExportError(
            f"opset {opset} was asked for; an exported file has one from {allowed[0]} to "
            f"{allowed[-1]}"
        )
    own = opset_of(model)
    wanted = opset or min(max(own, allowed[0]), allowed[-1])
    if wanted != own:
        try:
            model = onnx.version_converter.convert_version(model, wanted)
        except Exception as error:
            raise UnsupportedError(
                f"the model cannot be converted from opset {own} to {wanted}: {one_line(error)}; "
                f"export it with opset {allowed[0]} to {allowed[-1]}"
            ) from error
        del model.graph.value_info[:]  # of the old operators
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", wanted))
    model.ir_version = IR_VERSIONS[wanted]
    return model


def make_room(model: onnx.ModelProto, taken: Iterable[str]) -> dict[str, str]:
    """Rename, in place, values that bear one of the file's own names; return old and new names.

    Raises ExportError where an input does: its name is the caller's.
    """
    taken = set(taken)
    known = {name for node in model.graph.node for name in (*node.output, *node.input)}
    known |= {v.name for v in (*model.graph.input, *model.graph.initializer)}
    for value in model.graph.input:
        if value.name in taken:
            raise ExportError(
                f"the model's input {value.name!r} has a name that the exported file needs for "
                "itself; rename the input"
            )
    renamed: dict[str, str] = {}
    for name in sorted(taken & known):
        new = f"{name}_of_model"
        while new in known:
            new += "_"
        renamed[name] = new
    if renamed:
        _rename(model.graph, renamed)
    return renamed


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for values in (graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.name = names.get(value.name, value.name)
    for node in graph.node:
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                field[place] = names.get(name, name)
        for body in subgraphs(node):
            _rename(body, names)


def fix_extents(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write the inputs' extents into the model, the batch's left free."""
    for value in model.graph.input:
        for axis, n in enumerate(shapes.get(value.name, ())):
            if axis:
                value.type.tensor_type.shape.dim[axis].dim_value = n
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
