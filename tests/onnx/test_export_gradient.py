"""Gradient files: recognised by the ONNX adapter, and used as they are."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from exports_onnx import METHODS_EXPORTED, conv_model, probabilities_model, session_of
from gradcam_multi_onnx.demo import build
from gradcam_multi_onnx.export.recognised import GradientFile

import gradcam_multi as gm
from gradcam_multi.plugins import installed
from gradcam_multi.testing.reference import Reference, probe_inputs, probe_network

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    target = tmp_path_factory.mktemp("gradient") / "gradient.onnx"
    return gm.export(build(probe_network(softmax=True)), target, kind="gradient")


@pytest.mark.parametrize("count", [1, 3])
def test_activations_and_gradients_are_those_of_the_slow_reference(path, count):
    inputs = probe_inputs(count)
    reference = Reference(probe_network(softmax=True), inputs)
    cotangent = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    names = ["scores", "activations", "gradients"]
    session = session_of(path)
    assert [value.name for value in session.get_inputs()] == ["input", "cotangent"]
    assert [value.name for value in session.get_outputs()] == names
    scores, a, g = session.run(names, {"input": inputs, "cotangent": cotangent})
    # Float32 against float64, through two convolutions.
    np.testing.assert_allclose(scores, reference.logits, rtol=0, atol=1e-5)
    np.testing.assert_allclose(a, reference.tensors["relu2"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(g, reference.vjp(cotangent, "relu2"), rtol=0, atol=1e-5)


def test_it_is_plain_onnx(path):
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert file.ir_version <= 10
    assert {node.domain for node in file.graph.node} == {""}


@pytest.mark.parametrize("method", METHODS_EXPORTED)
def test_the_adapter_uses_it_directly(path, method, monkeypatch):
    from gradcam_multi_onnx import plan

    model, inputs = build(probe_network(softmax=True)), probe_inputs(3)
    wanted = [gm.explain(model, inputs, target, method=method) for target in (None, 2)]

    def forbidden(*_):
        raise AssertionError("a gradient file must not be differentiated")

    monkeypatch.setattr(plan, "differentiate", forbidden)
    explainer = gm.Explainer(path, method=method)
    assert isinstance(explainer.model, GradientFile)
    for found, expected in zip(explainer.several(inputs, [None, 2]), wanted, strict=True):
        assert found.classes == expected.classes
        assert found.status == expected.status
        assert found.layer == "relu2"
        scale = np.abs(expected.cam).max()
        np.testing.assert_allclose(found.cam, expected.cam, rtol=0, atol=1e-5 * scale)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
        np.testing.assert_allclose(found.heatmap, expected.heatmap, rtol=0, atol=1e-4)


def test_its_one_layer(path):
    assert gm.layers(path).default.name == "relu2"
    with pytest.raises(gm.LayerError, match="gradient at 'relu2' only, not at 'relu1'") as raised:
        gm.explain(path, probe_inputs(1), layer="relu1")
    assert "did you mean 'relu2'" in str(raised.value)


def test_what_does_not_fit(path):
    model = installed().open(path)
    with model.trace(probe_inputs(2), ["relu2"]) as trace:
        with pytest.raises(gm.InputError, match=r"must have shape \(2, 5\)"):
            trace.vjp({"probabilities": np.zeros((3, 5), np.float32)})
        with pytest.raises(gm.InputError, match="one output, 'probabilities'"):
            trace.vjp({"other": np.zeros((2, 5), np.float32)})
        with pytest.raises(gm.InputError, match="use the model itself"):
            trace.replay("relu2", trace.activations[0])
    with pytest.raises(RuntimeError, match="closed"):
        _ = trace.logits


def test_a_model_fixed_to_one_item_whose_scores_have_a_grid(tmp_path):
    model = probabilities_model(11)
    path = gm.export(model, tmp_path / "gradient.onnx", kind="gradient")
    x = np.random.default_rng(1).normal(size=(3, 3, 12, 10)).astype(np.float32)
    found, wanted = gm.explain(path, x), gm.explain(model, x)
    np.testing.assert_allclose(found.heatmap, wanted.heatmap, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.outputs, wanted.outputs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("last", [False, True])
def test_activations_have_their_channels_first(tmp_path, last):
    model = conv_model(2, last=last)
    path = gm.export(model, tmp_path / "gradient.onnx", kind="gradient", layer="r1")
    x = np.random.default_rng(1).normal(size=(2, *((12, 12, 2) if last else (2, 12, 12))))
    a, g = session_of(path).run(
        ["activations", "gradients"],
        {"x": x.astype(np.float32), "cotangent": np.ones((2, 5), np.float32)},
    )
    assert a.shape == g.shape == (2, 4, 12, 12)
    assert g.any()


def test_a_file_that_only_says_so(tmp_path):
    model = onnx.load_from_string(build(probe_network()))
    onnx.helper.set_model_props(model, {"gradcam_multi.kind": "gradient"})
    with pytest.raises(gm.ModelError, match="says that it is a gradient file but returns logits"):
        gm.Explainer(model)


def test_an_output_that_is_a_map(tmp_path):
    """A segmentation network: no class target, but any cotangent of its class maps."""
    model = onnx.load_from_string(conv_model(2, free=True))
    del model.graph.node[5:]  # what is behind the last ReLU
    model.graph.node.append(onnx.helper.make_node("Conv", ["r2", "w4"], ["logits"]))
    w4 = np.random.default_rng(0).normal(size=(3, 6, 1, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(w4, "w4"))
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims[1].dim_value = 3
    for name in ("height", "width"):
        dims.add().dim_param = name
    path = gm.export(model, tmp_path / "gradient.onnx", kind="gradient", layer="r2")
    x = np.random.default_rng(1).normal(size=(2, 2, 10, 14)).astype(np.float32)
    cotangent = np.random.default_rng(2).normal(size=(2, 3, 5, 7)).astype(np.float32)
    feeds = {"x": x, "cotangent": cotangent}
    (found,) = session_of(path).run(["gradients"], feeds)
    wanted = np.einsum("nohw,oi->nihw", cotangent, w4[:, :, 0, 0])
    # One product of float32 each, of three terms.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
