"""Copies of ONNX files with other weights: which arrays are asked for, and what is left alone."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from onnx import helper, numpy_helper

import gradcam_multi as gm
from gradcam_multi import metrics
from gradcam_multi.demo import load_network
from gradcam_multi.errors import ModelFileError
from gradcam_multi.plugins import installed

RNG = np.random.default_rng(0)


def weights(shape):
    return RNG.normal(size=shape).astype(np.float32)


def model():
    """A convolution, a normalisation, and a product with a transposed weight."""
    arrays = {
        "w": weights((4, 3, 3, 3)), "gamma": weights(4), "beta": weights(4), "mean": weights(4),
        "var": np.abs(weights(4)) + 1, "t": weights((5, 4)), "slope": np.float32([0.1]),
        "shape": np.array([0, -1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["t"], ["tt"], perm=[1, 0]),
        helper.make_node("Conv", ["x", "w"], ["conv"], "a_node", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["norm"]),
        helper.make_node("PRelu", ["norm", "slope"], ["prelu"]),
        helper.make_node("GlobalAveragePool", ["prelu"], ["pool"]),
        helper.make_node("Reshape", ["pool", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "tt"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, ["N", 5])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 10
    return made, arrays


def arrays_of(content):
    proto = onnx.load_from_string(content)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_what_is_asked_for_and_what_stays():
    proto, arrays = model()
    before, asked = proto.SerializeToString(), []

    def change(layer, array):
        asked.append((layer, array.shape))
        return 2 * array

    copy = installed().reweigh(proto, change)
    assert asked == [("conv", (4, 3, 3, 3)), ("norm", (4,)), ("norm", (4,)), ("y", (5, 4))]
    assert proto.SerializeToString() == before
    for name, array in arrays_of(copy).items():
        factor = 2 if name in ("w", "gamma", "beta", "t") else 1
        np.testing.assert_array_equal(array, factor * arrays[name])
        assert array.dtype == arrays[name].dtype
    assert metrics.weighted_layers(proto) == ("y", "norm", "conv")


def test_weights_beside_the_file(tmp_path):
    proto, arrays = model()
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="m.data", size_threshold=64)
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    assert len(files) == 2
    copy = metrics.shuffled(str(path), ["conv"])
    found = arrays_of(copy)
    assert not np.array_equal(found["w"], arrays["w"])
    np.testing.assert_array_equal(np.sort(found["w"].ravel()), np.sort(arrays["w"].ravel()))
    np.testing.assert_array_equal(found["t"], arrays["t"])
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == files
    inputs = weights((2, 3, 8, 8))
    assert gm.explain(copy, inputs, 1).layer == gm.explain(str(path), inputs, 1).layer
    with pytest.raises(ModelFileError, match="cannot be read"):
        metrics.shuffled(path.read_bytes(), ["conv"])
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelFileError, match="cannot be read"):
        metrics.shuffled(str(path), ["conv"])


def test_the_copy_is_the_network_with_those_weights():
    """Against the other road: the described network with shuffled weights, built anew."""
    network = load_network("sound")
    copy = metrics.shuffled(installed().build(network, "onnx"), ["conv4", "logits"], seed=7)
    found = arrays_of(copy)
    for name, array in network.weights.items():
        layer = name.partition(".")[0]
        match = [a for a in found.values() if a.shape == array.shape and _same(a, array)]
        assert bool(match) == (layer not in ("conv4", "logits"))


def _same(a, b):
    return np.array_equal(a, b)
