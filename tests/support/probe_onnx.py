"""The conformance kit's networks as ONNX models; values have the nodes' names."""

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gradcam_multi.testing import EPSILON, Network, Node


def build(network: Network) -> onnx.ModelProto:
    """Build a described network; a keyed output is one of that name."""
    kind = TensorProto.FLOAT16 if network.dtype == "float16" else TensorProto.FLOAT
    constants: dict[str, Any] = dict(network.weights)
    nodes = [each for node in network.nodes for each in _nodes(node, network, constants)]
    returned = network.outputs if network.keyed else {n: n for n in network.outputs.values()}
    # An output has its own name, so what makes it is renamed by an Identity.
    nodes += [
        helper.make_node("Identity", [name], [output], output)
        for output, name in returned.items()
        if output != name
    ]
    graph = helper.make_graph(
        nodes,
        network.name,
        [
            helper.make_tensor_value_info(name, kind, ["N", *shape])
            for name, shape in network.inputs.items()
        ],
        [helper.make_tensor_value_info(output, kind, ["N", 5]) for output in returned],
        [
            numpy_helper.from_array(
                array if array.dtype == np.int64 else array.astype(network.dtype), name
            )
            for name, array in constants.items()
        ],
    )
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _nodes(node: Node, network: Network, constants: dict[str, Any]) -> list[NodeProto]:
    name, inputs = node.name, list(node.inputs)
    weights = network.weights_of(node)
    own = [f"{name}.{weight}" for weight in ("weight", "bias", "mean", "variance")]
    own = [weight for weight in own if weight in network.weights]

    def made(op: str, reads: list[str], makes: str = name, **attributes: Any) -> NodeProto:
        return helper.make_node(op, reads, [makes], makes, **attributes)

    def constant(key: str, value: Any) -> str:
        constants[f"{name}.{key}"] = np.asarray(value)
        return f"{name}.{key}"

    rank = len(next(iter(network.inputs.values()))) - 1  # spatial axes of the maps
    if node.op == "conv":
        stride = node.attributes.get("stride", 1)
        padding = node.attributes.get("padding", weights["weight"].shape[2] // 2)
        return [made("Conv", inputs + own, strides=[stride] * rank, pads=[padding] * 2 * rank)]
    if node.op == "dense":
        transposed = constant("transposed", weights["weight"].T)
        return [
            made("MatMul", [*inputs, transposed], f"{name}.product"),
            made("Add", [f"{name}.product", own[1]]),
        ]
    if node.op == "maxpool":
        return [made("MaxPool", inputs, kernel_shape=[2] * rank, strides=[2] * rank)]
    if node.op == "gap":
        pooled = f"{name}.pooled"
        return [made("GlobalAveragePool", inputs, pooled), made("Flatten", [pooled])]
    if node.op == "tokens":
        shape = constant("shape", np.array([0, 0, -1], np.int64))
        cells = f"{name}.cells"
        return [
            made("Reshape", [*inputs, shape], cells),
            made("Transpose", [cells], perm=[0, 2, 1]),
        ]
    if node.op == "prepend":
        read, extent = f"{name}.shape", f"{name}.extent"
        start, one = (
            constant("start", np.array([0], np.int64)),
            constant("one", np.array([1], np.int64)),
        )
        repeated = constant("tail", np.array([1, 1], np.int64))
        return [
            made("Shape", inputs, read),
            made("Slice", [read, start, one], f"{name}.count"),
            made("Concat", [f"{name}.count", repeated], extent, axis=0),
            made("Expand", [*own, extent], f"{name}.own"),
            made("Concat", [f"{name}.own", *inputs], axis=1),
        ]
    if node.op == "select":
        index = constant("index", np.array(node.attributes["index"], np.int64))
        return [made("Gather", [*inputs, index], axis=1)]
    if node.op == "attention":
        return _attention(node, network, made, constant)
    op, attributes = {
        "add": ("Add", {}),
        "batchnorm": ("BatchNormalization", {"epsilon": EPSILON}),
        "concat": ("Concat", {"axis": 1}),
        "layernorm": ("LayerNormalization", {"epsilon": EPSILON, "axis": -1}),
        "position": ("Add", {}),
        "relu": ("Relu", {}),
        "softmax": ("Softmax", {"axis": -1}),
    }[node.op]
    return [made(op, inputs + own, **attributes)]


def _attention(node: Node, network: Network, made: Any, constant: Any) -> list[NodeProto]:
    name, heads = node.name, node.attributes["heads"]
    width = len(network.weights[f"{node.inputs[0]}.bias"])
    split = constant("split", np.array([0, 0, heads, width // heads], np.int64))
    merged = constant("merged", np.array([0, 0, width], np.int64))
    scale = constant("scale", np.float32((width // heads) ** -0.5))
    nodes = []
    for part, source, order in zip(
        "qkv", node.inputs, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True
    ):
        nodes.append(made("Reshape", [source, split], f"{name}.{part}"))
        nodes.append(made("Transpose", [f"{name}.{part}"], f"{name}.{part}h", perm=order))
    return [
        *nodes,
        made("MatMul", [f"{name}.qh", f"{name}.kh"], f"{name}.product"),
        made("Mul", [f"{name}.product", scale], f"{name}.scaled"),
        made("Softmax", [f"{name}.scaled"], f"{name}.weights", axis=-1),
        made("MatMul", [f"{name}.weights", f"{name}.vh"], f"{name}.heads"),
        made("Transpose", [f"{name}.heads"], f"{name}.joined", perm=[0, 2, 1, 3]),
        made("Reshape", [f"{name}.joined", merged]),
    ]
