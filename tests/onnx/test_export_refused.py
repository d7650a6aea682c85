"""What is not exported, and leaves nothing behind; and the check that sees to it."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from gradcam_multi_onnx.demo import build
from onnx import TensorProto, helper, numpy_helper

import gradcam_multi as gm
from gradcam_multi.testing.reference import probe_network


def refused(tmp_path, model, match, **more):
    path = tmp_path / "out.onnx"
    path.write_bytes(b"what was there before")
    with pytest.raises(gm.GradcamError, match=match) as raised:
        gm.export(model, path, **more)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"kind": "heatmaps"}, "did you mean 'heatmap'"),
        ({"class_input": "none"}, "optional and required"),
        ({"method": "gradcan"}, "did you mean 'gradcam'"),
        ({"layer": "relu22"}, "did you mean 'relu2'"),
        ({"opset": 17}, "from 18 to 21"),
        ({"output": "logit"}, "did you mean 'logits'"),
        ({"preprocess": "caffee"}, "did you mean 'caffe'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_asked_wrongly(tmp_path, more, match):
    refused(tmp_path, build(probe_network()), match, **more)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(gm.ExportError, match="folder does not exist"):
        gm.export(build(probe_network()), tmp_path / "no" / "out.onnx")


@pytest.mark.parametrize("kind", ["heatmap", "gradient"])
def test_a_wrong_map_is_found_by_the_check(tmp_path, monkeypatch, kind):
    """The gate, made to fail: a formula that is wrong, and a gradient that is."""
    from gradcam_multi_onnx.export import joint, maps

    if kind == "heatmap":
        monkeypatch.setitem(maps.MAPS, "gradcam", maps.MAPS["layercam"])
    else:
        right = joint.Joint.differentiate  # a hundredth too large: no heatmap would show it
        monkeypatch.setattr(joint.Joint, "differentiate", lambda self, c: right(self, c) * 1.01)
    refused(tmp_path, build(probe_network()), "differs? from the model's", kind=kind)


def test_maps_that_do_not_depend_on_the_class(tmp_path):
    network = probe_network()
    network.weights["logits.weight"][...] = np.abs(network.weights["logits.weight"][:1])
    refused(tmp_path, build(network), "the same for 5 classes")


def test_a_model_without_maps(tmp_path):
    refused(tmp_path, build(probe_network(dense="negative")), "give no map at 'relu2'")


def test_operators_of_one_runtime(tmp_path):
    model = onnx.load_from_string(build(probe_network()))
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type, node.domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refused(tmp_path, model, "standard operators only")


def test_an_input_whose_name_is_needed(tmp_path):
    model = onnx.load_from_string(build(probe_network()))
    model.graph.input[0].name = "class_index"
    model.graph.node[0].input[0] = "class_index"
    refused(tmp_path, model, "rename the input")


def test_an_exported_file_is_not_exported_again(tmp_path):
    path = gm.export(build(probe_network()), tmp_path / "first.onnx")
    data = path.read_bytes()
    path.unlink()
    refused(tmp_path, data, "itself an exported file")


def test_a_map_of_scores_has_no_class(tmp_path):
    weight = numpy_helper.from_array(np.ones((3, 2, 1, 1), np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])], "g",
        [value("x", TensorProto.FLOAT, ["N", 2, 8, 8])],
        [value("y", TensorProto.FLOAT, ["N", 3, 8, 8])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    refused(tmp_path, model, "one score a class")
