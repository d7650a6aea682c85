"""What the operators of an ONNX graph add to their channels."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import gradcam_multi as gm

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 8, 8)


def drawn(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def model(nodes, weights, result, shape):
    graph = helper.make_graph(
        [helper.make_node(kind, read, [made], **attributes)
         for kind, read, made, attributes in nodes],
        "biased",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, *SHAPE[1:]])],
        [helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, [None, *shape])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


WEIGHTS = {
    "kernel": drawn(4, 3, 3, 3), "shift": drawn(4), "added": drawn(4, 1, 1), "taken": drawn(1),
    "gamma": drawn(4), "beta": drawn(4), "mean": drawn(4), "variance": 1 + drawn(4) ** 2,
    "wide": drawn(4, 6), "row": drawn(6), "dense": drawn(5, 6), "scores": drawn(1, 5),
    "up": drawn(4, 4, 2, 2), "half": np.float32(0.5).reshape(()),
}  # fmt: skip
NODES = [
    ("Conv", ["x", "kernel", "shift"], "conv", {"pads": [1] * 4}),
    ("Add", ["added", "conv"], "plus", {}),
    ("BatchNormalization", ["plus", "gamma", "beta", "mean", "variance"], "norm",
     {"epsilon": 0.01}),
    ("Relu", ["norm"], "relu", {}),
    ("Mul", ["shift", "half"], "halved", {}),  # a constant that the graph computes
    ("ConvTranspose", ["relu", "up", "halved"], "larger", {"strides": [2, 2]}),
    ("Relu", ["larger"], "relu2", {}),
    ("Sub", ["relu2", "taken"], "minus", {}),
    ("Relu", ["minus"], "relu3", {}),
    ("GlobalAveragePool", ["relu3"], "pooled", {}),
    ("Flatten", ["pooled"], "flat", {}),
    ("MatMul", ["flat", "wide"], "product", {}),
    ("Sub", ["row", "product"], "turned", {}),
    ("Relu", ["turned"], "relu4", {}),
    ("Gemm", ["relu4", "dense", "scores"], "y", {"transB": 1, "beta": 0.25}),
]  # fmt: skip


def test_values_of_every_operator_and_completeness():
    content = model(NODES, WEIGHTS, "y", (5,))
    inputs = RNG.normal(size=SHAPE).astype(np.float32)
    w = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    expected = {
        "conv": w["shift"],
        "plus": w["added"].ravel(),
        "norm": w["beta"] - w["gamma"] * w["mean"] / np.sqrt(w["variance"] + 0.01),
        "larger": 0.5 * w["shift"],
        "minus": -w["taken"].repeat(4),
        "turned": w["row"],
        "y": 0.25 * w["scores"][0],
    }
    explainer = gm.Explainer(content, method="fullgrad")
    biases = explainer.model.biases(inputs)
    assert set(biases) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(biases[name].values, values, rtol=1e-6, err_msg=name)
    # It raises where input and biases are not the whole score.
    assert explainer(inputs, [1, 4]).status == ("ok", "ok")


def test_an_addition_that_differs_between_cells_is_no_bias():
    nodes = [
        ("Add", ["x", "place"], "moved", {}),
        ("Conv", ["moved", "kernel", "shift"], "conv", {}),
        ("Relu", ["conv"], "relu", {}),
        ("GlobalAveragePool", ["relu"], "pooled", {}),
        ("Flatten", ["pooled"], "y", {}),
    ]
    weights = {"place": drawn(3, 8, 8), "kernel": WEIGHTS["kernel"], "shift": WEIGHTS["shift"]}
    explainer = gm.Explainer(model(nodes, weights, "y", (4,)), method="fullgrad")
    inputs = RNG.normal(size=SHAPE).astype(np.float32)
    assert set(explainer.model.biases(inputs)) == {"conv"}
    with pytest.raises(gm.UnsupportedError, match="biases of 1 layers make up"):
        explainer(inputs, 1)
