"""A small ONNX classifier, whole or in parts, and the gradient that it must give."""

from typing import Any

import numpy as np
import onnx
from gradcam_multi_onnx import plugin
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
RANDOM = np.random.default_rng(0)
CONV = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
DENSE = RANDOM.normal(size=(5, 4)).astype(np.float32)
X = RANDOM.normal(size=(4, 3, 8, 8)).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto] | None = None,
    weights: dict[str, np.ndarray] | None = None,
    *,
    inputs: dict[str, tuple[Any, ...]] | None = None,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A convolution, ReLU, pooling and dense classifier, or other nodes."""
    made = nodes or [
        node("Conv", ["x", "w"], ["c"], "conv_node", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["a"]),
        node("GlobalAveragePool", ["a"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "d"], ["y"], transB=1),
    ]
    stored = {"w": CONV, "d": DENSE} if weights is None else weights
    values = [
        helper.make_tensor_value_info(name, dtype, shape)
        for name, shape in (inputs or {"x": ("N", 3, 8, 8)}).items()
    ]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(made, "model", values, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def opened(*args: Any, **kwargs: Any) -> Any:
    return plugin.gradcam_multi_open(model(*args, **kwargs))


def expected(x: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """The gradient of the default model at its ReLU: the classifier's rows over the grid."""
    rows = cotangent @ DENSE / 64
    return np.broadcast_to(rows[:, :, None, None], (len(x), 4, 8, 8))
