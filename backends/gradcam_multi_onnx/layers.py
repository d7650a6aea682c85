"""The operations of a graph as layers: role, channel axis, edges."""

from collections.abc import Container, Iterable, Mapping

from onnx import NodeProto

from gradcam_multi.spec import Layer, Role
from gradcam_multi_onnx.graph import Graph, reads
from gradcam_multi_onnx.origin import origin_of

ROLES: dict[str, Role] = {
    **dict.fromkeys(
        ("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "FusedConv", "NhwcConv",
         "QLinearConv"), "conv"),
    **dict.fromkeys(
        ("Einsum", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger",
         "QLinearMatMul"), "linear"),
    **dict.fromkeys(
        ("Attention", "DecoderMaskedMultiHeadAttention", "GroupQueryAttention",
         "MultiHeadAttention", "PackedMultiHeadAttention"), "attention"),
    **dict.fromkeys(
        ("AveragePool", "DepthToSpace", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
         "LpPool", "MaxPool", "MaxRoiPool", "MaxUnpool", "Pad", "Resize", "RoiAlign",
         "SpaceToDepth", "Upsample"), "pool"),
    **dict.fromkeys(("Cast", "Dropout", "Identity"), "identity"),
}  # fmt: skip
"""What the choice of the default layer has to know of an operator; all others are `other`."""


_MEASURES = {"Shape", "Size"}


def role_of(node: NodeProto, data: Container[str]) -> Role:
    """Return an operator's role; a product of two values that depend on the data is attention."""
    role = ROLES.get(node.op_type, "other")
    if role == "linear" and sum(name in data for name in node.input) > 1:
        return "attention"
    return role


def kind_of(node: NodeProto) -> str:
    """Return the operator's name, with its domain where it is not ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def find_layers(
    graph: Graph, outputs: Iterable[str], channels: Mapping[str, int], batches: Mapping[str, int]
) -> tuple[Layer, ...]:
    """Return the floating-point results that depend on an input, in execution order.

    A layer's name is its value's. Operations on integers are left out, and edges lead through them,
    but not through the shapes of values: what is made of these alone depends on no data. What turns
    a convolution's or a product's integers to floats stands for it. `channels` and `batches` are
    the axes of values by name.
    """
    own = set(outputs)
    data = {value.name for value in graph.inputs}
    sources: dict[str, tuple[str, ...]] = {}
    integers: dict[str, Role] = {}
    layers = []
    for node in graph.nodes:
        measured = node.op_type in _MEASURES
        read = () if measured else reads(node)
        before = tuple(dict.fromkeys(s for name in read for s in sources.get(name, ())))
        role = role_of(node, data)
        if role in ("identity", "other") and node.input:  # Cast, DequantizeLinear
            role = integers.get(node.input[0], role)
        if not data.isdisjoint(read):
            data.update(node.output)
        for place, name in enumerate(node.output):
            used = place == 0 or name in graph.readers or name in own
            if not name or not used or graph.constant(name):
                continue
            kind = graph.type(name)
            if not kind.floating:
                sources[name] = before
                if role in ("conv", "linear", "attention") and node.op_type in ROLES:
                    integers[name] = role
                continue
            sources[name] = (name,)
            layers.append(
                Layer(
                    name=name,
                    kind=kind_of(node),
                    role=role,
                    shape=kind.public,
                    channel_axis=channels.get(name),
                    inputs=before,
                    output=name if name in own else None,
                    source=origin_of(node, graph.exporter),
                    batch_axis=batches.get(name, 0),
                )
            )
    return tuple(layers)


def aliases(graph: Graph) -> dict[str, str]:
    """Return node names that are no value's name, with their first results."""
    values = graph.variable
    return {n.name: n.output[0] for n in graph.nodes if n.name and n.name not in values}


def integer_convolutions(graph: Graph) -> list[str]:
    """Return the operators of the convolutions whose results are integers."""
    return [
        node.op_type
        for node in graph.nodes
        if ROLES.get(node.op_type) == "conv" and not graph.type(node.output[0]).floating
    ]
