"""The demo networks as ONNX models."""

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from gradcam_multi.demo.networks import DemoLayer, DemoNetwork

_OPSET, _IR_VERSION = 18, 8


def build(network: "DemoNetwork") -> bytes:
    """Return the described network as the bytes of a file.

    Its input is `input`, (N, 3, H, W); values and nodes have the layers' names.
    """
    nodes: list[onnx.NodeProto] = []
    value = "input"
    for layer in network.layers:
        nodes += _nodes(layer, value)
        value = layer.name
    image, scores = ["N", 3, *network.input_size], ["N", len(network.classes)]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, image)]
    outputs = [helper.make_tensor_value_info(value, TensorProto.FLOAT, scores)]
    tensors = [
        numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name)
        for name, array in network.weights.items()
    ]
    graph = helper.make_graph(nodes, network.name, inputs, outputs, tensors)
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    serialized: bytes = model.SerializeToString()
    return serialized


def _nodes(layer: "DemoLayer", value: str) -> list[onnx.NodeProto]:
    name = layer.name
    weights = [f"{name}.weight", f"{name}.bias"]
    if layer.kind == "conv":
        pads = [1, 1, 1, 1]
        return [helper.make_node("Conv", [value, *weights], [name], name, pads=pads)]
    if layer.kind == "relu":
        return [helper.make_node("Relu", [value], [name], name)]
    if layer.kind == "maxpool":
        sizes = {"kernel_shape": [2, 2], "strides": [2, 2]}
        return [helper.make_node("MaxPool", [value], [name], name, **sizes)]
    if layer.kind == "gap":
        pooled = f"{name}.pooled"
        return [
            helper.make_node("GlobalAveragePool", [value], [pooled], pooled),
            helper.make_node("Flatten", [pooled], [name], name),
        ]
    if layer.kind == "dense":
        return [helper.make_node("Gemm", [value, *weights], [name], name, transB=1)]
    return [helper.make_node("Softmax", [value], [name], name, axis=1)]
