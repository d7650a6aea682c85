"""Heatmap files of half-precision models: rounded where the model itself is."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from exports_onnx import METHODS_EXPORTED, session_of
from gradcam_multi_onnx.export import build as build_module
from onnx import helper, numpy_helper

import gradcam_multi as gm
from gradcam_multi.spec import ExportOrder

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")

# The same float32 operators run twice, rounded at the same places: 3e-7 measured.
TOLERANCE = 1e-4


def fire(opset: int, dtype: type = np.float16) -> bytes:
    """Three convolutions deep, with a concatenation, classes from a convolution behind a ReLU."""
    random = np.random.default_rng(3)
    shapes = {"w1": (16, 3, 3, 3), "w2": (16, 16, 1, 1), "w3": (16, 16, 3, 3), "w4": (24, 32, 3, 3),
              "w5": (12, 24, 1, 1)}  # fmt: skip
    arrays = {n: random.normal(0, 1.4 / np.sqrt(np.prod(s[1:])), s) for n, s in shapes.items()}
    tensors = [numpy_helper.from_array(a.astype(dtype), name) for name, a in arrays.items()]
    node, pads = helper.make_node, [1, 1, 1, 1]
    nodes = [
        node("Conv", ["x", "w1"], ["c1"], pads=pads), node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"]), node("Relu", ["c2"], ["r2"]),
        node("Conv", ["r1", "w3"], ["c3"], pads=pads), node("Relu", ["c3"], ["r3"]),
        node("Concat", ["r2", "r3"], ["both"], axis=1),
        node("Conv", ["both", "w4"], ["c4"], pads=pads), node("Relu", ["c4"], ["r4"]),
        node("Conv", ["r4", "w5"], ["c5"]), node("Relu", ["c5"], ["r5"]),
        node("GlobalAveragePool", ["r5"], ["gap"]), node("Flatten", ["gap"], ["logits"]),
    ]  # fmt: skip
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info("x", code, ["N", 3, 20, 20])]
    outputs = [helper.make_tensor_value_info("logits", code, ["N", 12])]
    graph = helper.make_graph(nodes, "fire", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=4 if opset < 10 else 8)
    data: bytes = model.SerializeToString()
    return data


def pictures() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 3, 20, 20)).astype(np.float16)


def worst(model: bytes, path, layer: str, method: str, *, smooth: bool = False) -> float:
    """The largest difference from the model's own maps, for every class."""
    session, x = session_of(path), pictures()
    if smooth:
        x = np.linspace(1, 1.3, x.size).reshape(x.shape).astype(np.float16)
    explainer = gm.Explainer(model, layer=layer, method=method)
    found = []
    for index in range(12):
        (heatmap,) = session.run(["heatmap"], {"x": x, "class_index": np.array([index])})
        found.append(np.abs(heatmap - explainer(x, index).heatmap).max())
    return float(max(found))


@pytest.mark.parametrize("layer", ["r4", "both", "r3"])
@pytest.mark.parametrize("opset", [7, 13, 17, 18])
def test_maps_are_the_models_own(tmp_path, opset, layer):
    path = gm.export(fire(opset), tmp_path / "h.onnx", layer=layer, method="layercam")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert worst(fire(opset), path, layer, "layercam") <= TOLERANCE


@pytest.mark.parametrize("method", METHODS_EXPORTED)
def test_every_method(tmp_path, method):
    path = gm.export(fire(13), tmp_path / "h.onnx", layer="r4", method=method)
    assert worst(fire(13), path, "r4", method) <= TOLERANCE


def test_infinite_scores_stay():
    """As a class that a model rules out has; the arithmetic that rounds would make it NaN."""
    model = onnx.load_from_string(fire(13))
    model.graph.node[-1].output[0] = "open"
    model.graph.node.append(helper.make_node("Add", ["open", "mask"], ["logits"]))
    mask = np.where(np.arange(12) == 11, -np.inf, 0).astype(np.float16)
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    order = ExportOrder("heatmap", "r4", "r4", "logits", "logits", "gradcam", pictures())
    found = build_module.build(model.SerializeToString(), order).run(pictures(), None)
    assert (found["scores"][:, 11] == -np.inf).all()
    assert np.isfinite(found["scores"][:, :11]).all()
    assert found["heatmap"].max() == 1


def test_without_it_another_cell_is_open(tmp_path, monkeypatch):
    """The reason for all this; where it no longer holds, the casts are not needed any more."""
    monkeypatch.setattr(build_module, "widen_converted", lambda *given: None)
    with pytest.raises(gm.ExportError, match=r"layercam for class \d+ differs from the model's"):
        gm.export(fire(13), tmp_path / "h.onnx", layer="r4", method="layercam")


def casts(path) -> int:
    """Count those to half precision; a gradient's masks are cast to single precision."""
    half = onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT16)
    nodes = onnx.load(path).graph.node
    return sum(node.op_type == "Cast" and half in node.attribute for node in nodes)


def test_only_half_precision_that_was_converted_gets_casts(tmp_path):
    half, new, full = (
        casts(gm.export(model, tmp_path / "h.onnx", layer="r4"))
        for model in (fire(17), fire(18), fire(17, np.float32))
    )
    assert half > new == full == 0


def overlapping(opset: int) -> bytes:
    """Behind the layer a pooling whose windows overlap: rounded, two cells may be equal."""
    random = np.random.default_rng(5)
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["c1"]), node("Relu", ["c1"], ["r1"]),
        node("MaxPool", ["r1"], ["p1"], kernel_shape=[3, 3], strides=[2, 2]),
        node("Conv", ["p1", "w2"], ["c2"]), node("GlobalAveragePool", ["c2"], ["gap"]),
        node("Flatten", ["gap"], ["logits"]),
    ]  # fmt: skip
    arrays = {"w1": random.normal(0, 0.02, (8, 3, 1, 1)), "w2": random.normal(size=(12, 8, 3, 3))}
    tensors = [numpy_helper.from_array(a.astype(np.float16), name) for name, a in arrays.items()]
    inputs = [helper.make_tensor_value_info("x", 10, ["N", 3, 20, 20])]
    outputs = [helper.make_tensor_value_info("logits", 10, ["N", 12])]
    graph = helper.make_graph(nodes, "pools", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return data


@pytest.mark.parametrize("opset", [13, 18])
def test_equals_of_a_pooling_are_those_of_the_model(tmp_path, opset):
    # Smooth pictures, so that neighbours are nearly equal.
    path = gm.export(overlapping(opset), tmp_path / "h.onnx", layer="r1", method="layercam")
    assert worst(overlapping(opset), path, "r1", "layercam", smooth=True) <= TOLERANCE


def test_the_runtime_sees_through_the_casts(tmp_path):
    """Convolution and ReLU stay one operator on a CPU, as in the model's own opset."""
    path = gm.export(fire(13), tmp_path / "h.onnx", layer="r4")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4  # such a file is for this machine only
    ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("Conv") + kinds.count("FusedConv") == 6  # five, and one of the gradient
    # That of the map itself, and the largest end of its scale: none of the model.
    assert (kinds.count("Relu"), kinds.count("Max")) == (1, 1)
