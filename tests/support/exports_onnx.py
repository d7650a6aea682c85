"""Small ONNX models for the tests of the export, and how their files are run."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

METHODS_EXPORTED = (
    "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "gradcam-elementwise",
)  # fmt: skip


def session_of(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns that the default of class_index is no constant
    options.intra_op_num_threads = 2
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _model(nodes, inputs, outputs, weights, opset):
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4 if opset < 10 else 8
    )
    return model.SerializeToString()


def conv_model(axes: int, *, free: bool = False, last: bool = False) -> bytes:
    """Two convolutions with a pooling between them, over lines, pictures or volumes."""
    random = np.random.default_rng(axes)
    kernel = (3,) * axes
    weights = {
        "w1": random.normal(0, 0.5, (4, 2, *kernel)),
        "w2": random.normal(0, 0.5, (6, 4, *kernel)),
        "b2": random.normal(0, 0.2, (6,)),
        "w3": random.normal(0.3, 1, (6, 5)),
    }
    order = [0, axes + 1, *range(1, axes + 1)]
    size = [None] * axes if free else [12] * axes
    shape = ["N", *size, 2] if last else ["N", 2, *size]
    pads, two = [1] * (2 * axes), [2] * axes
    start = [helper.make_node("Transpose", ["x"], ["first"], perm=order)] if last else []
    nodes = [
        *start,
        helper.make_node("Conv", ["first" if last else "x", "w1"], ["c1"], pads=pads),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=two, strides=two),
        helper.make_node("Conv", ["p1", "w2", "b2"], ["c2"], pads=pads),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["gap"]),
        helper.make_node("Flatten", ["gap"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w3"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    return _model(
        nodes,
        [value("x", TensorProto.FLOAT, shape)],
        [value("logits", TensorProto.FLOAT, ["N", 5])],
        {name: array.astype(np.float32) for name, array in weights.items()},
        18,
    )


def probabilities_model(opset: int) -> bytes:
    """A network fixed to one item, whose classes come from a convolution, with (1, C, 1, 1)."""
    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(0, 0.5, (6, 3, 3, 3)).astype(np.float32),
        "w2": random.normal(0, 0.5, (4, 6, 1, 1)).astype(np.float32),
    }
    for name, low, high in (("scale", 0.5, 1.5), ("shift", -0.2, 0.2), ("var", 0.5, 1.5)):
        weights[name] = random.uniform(low, high, 6).astype(np.float32)
    ties = {"spatial": 1} if opset < 9 else {}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node(
            "BatchNormalization", ["c1", "scale", "shift", "shift", "var"], ["n1"], **ties
        ),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("Dropout", ["r1"], ["d1"]),
        helper.make_node("Conv", ["d1", "w2"], ["c2"]),
        helper.make_node("GlobalAveragePool", ["c2"], ["gap"]),
        helper.make_node("Softmax", ["gap"], ["out"], axis=1),
    ]
    value = helper.make_tensor_value_info
    return _model(
        nodes,
        [value("x", TensorProto.FLOAT, [1, 3, 12, 10])],
        [value("out", TensorProto.FLOAT, [1, 4, 1, 1])],
        weights,
        opset,
    )


def axes_model() -> bytes:
    """The mean over all axes from the second on, as many as the activation's own shape says."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(0, 0.4, (6, 3, 3, 3)).astype(np.float32),
        "d": random.normal(size=(6, 4)).astype(np.float32),
        "one": np.array(1),
        "two": np.array(2),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Size", ["shape"], ["rank"]),
        helper.make_node("Range", ["two", "rank", "one"], ["axes"]),
        helper.make_node("ReduceMean", ["a", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "d"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    return _model(
        nodes,
        [value("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [value("logits", TensorProto.FLOAT, ["N", 4])],
        weights,
        18,
    )
