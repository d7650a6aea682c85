"""Heatmap files: run in stock ONNX Runtime, against a slow reference and against the core."""

import json
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from exports_onnx import (
    METHODS_EXPORTED,
    axes_model,
    conv_model,
    probabilities_model,
    session_of,
)
from gradcam_multi_onnx.demo import build
from onnx import TensorProto

import gradcam_multi as gm
from gradcam_multi.cam import METHODS, raw_maps, rescale
from gradcam_multi.resize import resize
from gradcam_multi.testing.reference import Reference, probe_inputs, probe_network

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")

# Heatmaps lie in [0, 1]; forward and map are float32 in the file, float64 in the reference.
TOLERANCE = 1e-4


def expected(network, inputs, classes, method, layer="relu2"):
    """The heatmaps by slow NumPy in float64 and the core's formulas."""
    reference = Reference(network, inputs)
    hot = np.eye(reference.logits.shape[1])[classes]
    arrays = reference.tensors[layer], reference.vjp(hot, layer)
    a, g = (array.astype(np.float32) for array in arrays)
    return rescale(resize(raw_maps(a, g, METHODS[method])[0], inputs.shape[2:]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    for method in METHODS_EXPORTED:
        gm.export(build(probe_network()), folder / f"{method}.onnx", method=method)
    return folder


def test_every_method_of_the_core_can_be_exported():
    from gradcam_multi_onnx.export.maps import MAPS

    assert set(MAPS) == set(METHODS_EXPORTED) <= set(METHODS)
    assert all(METHODS[name].relu for name in MAPS)  # the file cuts negative evidence


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("method", METHODS_EXPORTED)
def test_heatmaps_are_those_of_the_slow_reference(folder, method, count):
    network, inputs = probe_network(), probe_inputs(count)
    session = session_of(folder / f"{method}.onnx")
    reference = Reference(network, inputs)
    top = reference.logits.argmax(1)
    scores, chosen, heatmap = session.run(["scores", "class", "heatmap"], {"input": inputs})
    np.testing.assert_allclose(scores, reference.logits, rtol=0, atol=1e-5)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == top.tolist()
    np.testing.assert_allclose(
        heatmap, expected(network, inputs, top, method), rtol=0, atol=TOLERANCE
    )
    for asked in ([3], [4, 0, 2][:count]):  # one for all, or one an item
        given = {"input": inputs, "class_index": np.array(asked)}
        chosen, heatmap = session.run(["class", "heatmap"], given)
        classes = np.broadcast_to(asked, (count,))
        assert chosen.tolist() == classes.tolist()
        wanted = expected(network, inputs, classes, method)
        np.testing.assert_allclose(heatmap, wanted, rtol=0, atol=TOLERANCE)


def test_a_negative_index_is_the_top_class_and_one_beyond_the_last_has_no_map(folder):
    session, inputs = session_of(folder / "gradcam.onnx"), probe_inputs(2)
    plain = session.run(["class", "heatmap"], {"input": inputs})
    asked = session.run(["class", "heatmap"], {"input": inputs, "class_index": np.array([-1])})
    np.testing.assert_array_equal(asked[0], plain[0])
    np.testing.assert_array_equal(asked[1], plain[1])
    (beyond,) = session.run(["heatmap"], {"input": inputs, "class_index": np.array([99])})
    assert not beyond.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("method", METHODS_EXPORTED)
def test_nothing_is_nan(folder, method, bad):
    session, inputs = session_of(folder / f"{method}.onnx"), probe_inputs(3)
    (whole,) = session.run(["heatmap"], {"input": inputs, "class_index": np.array([2])})
    inputs[1, 0, 3, 3] = bad
    (broken,) = session.run(["heatmap"], {"input": inputs, "class_index": np.array([2])})
    assert not broken[1].any()
    np.testing.assert_array_equal(broken[[0, 2]], whole[[0, 2]])


def unchecked(model, method, inputs, layer="relu2"):
    """Build without the check, which refuses models that have no map."""
    from gradcam_multi_onnx.export.build import build as build_file

    from gradcam_multi.spec import ExportOrder

    order = ExportOrder("heatmap", layer, layer, "logits", "logits", method, inputs)
    return build_file(model, order)


@pytest.mark.parametrize("dense", ["zero", "negative"])
@pytest.mark.parametrize("method", METHODS_EXPORTED)
def test_maps_that_say_nothing_are_zero(method, dense):
    inputs = probe_inputs(2)
    file = unchecked(build(probe_network(dense=dense)), method, inputs)
    assert not file.run(inputs, np.array([1, 2]))["heatmap"].any()


@pytest.mark.parametrize("method", METHODS_EXPORTED)
def test_a_constant_map_is_zero(method):
    inputs = np.ones((2, 3, 16, 16), np.float32)
    network = probe_network()
    network.weights["conv1.weight"][...] = 0  # then every cell is the bias, at borders too
    kernel = network.weights["conv2.weight"]
    kernel[...] = np.where(np.arange(9).reshape(3, 3) == 4, np.abs(kernel), 0)
    network.weights["logits.weight"][...] = 1 + np.arange(5)[:, None]
    file = unchecked(build(network), method, inputs)
    assert not file.run(inputs, np.array([1, 2]))["heatmap"].any()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("method", METHODS_EXPORTED)
def test_the_unit_of_the_score_does_not_matter(tmp_path, folder, method, scale):
    inputs = probe_inputs(2)
    gm.export(build(probe_network(scale=scale)), tmp_path / "scaled.onnx", method=method)
    feeds = {"input": inputs, "class_index": np.array([1])}
    (found,) = session_of(tmp_path / "scaled.onnx").run(["heatmap"], feeds)
    (wanted,) = session_of(folder / f"{method}.onnx").run(["heatmap"], feeds)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    assert found.max() == 1


def test_a_file_is_plain_onnx_and_says_what_it_is(tmp_path):
    model = build(probe_network(softmax=True))
    path = gm.export(model, tmp_path / "out.onnx", method="xgradcam", preprocess="tf")
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert file.ir_version <= 10
    assert [(o.domain, o.version) for o in file.opset_import] == [("", 18)]
    assert {node.domain for node in file.graph.node} == {""}
    names = [value.name for value in file.graph.output]
    assert names == ["scores", "class", "heatmap", "probabilities"]
    stored = {tensor.name for tensor in file.graph.initializer}
    read = {name for node in file.graph.node for name in node.input}
    assert stored <= read, "weights that nothing reads"
    said = {entry.key.removeprefix("gradcam_multi."): entry.value for entry in file.metadata_props}
    assert said["kind"], said["layer"] == ("heatmap", "relu2")
    assert (said["method"], said["layout"]) == ("xgradcam", "channels_first")
    assert (said["activation"], said["version"]) == ("softmax", gm.__version__)
    assert said["onnx_version"] == onnx.__version__
    noted = gm.Preprocess.from_json(said["preprocessing"])
    assert (noted.mean, noted.size, noted.layout) == (1.0, (16, 16), "channels_first")
    assert json.loads(said["preprocessing"])["scale"] == 1 / 127.5


@pytest.mark.parametrize("opset", [18, 19, 20, 21])
def test_the_opset_can_be_chosen(tmp_path, opset):
    path = gm.export(build(probe_network()), tmp_path / "out.onnx", opset=opset)
    file = onnx.load(path)
    assert file.opset_import[0].version == opset
    assert file.ir_version <= 10
    onnx.checker.check_model(file, full_check=True)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 15, 17, 22, 23])
def test_models_of_other_opsets_are_converted(tmp_path, opset):
    model = probabilities_model(opset)
    path = gm.export(model, tmp_path / "out.onnx")
    assert onnx.load(path).opset_import[0].version == (21 if opset > 21 else 18)
    x = np.random.default_rng(1).normal(size=(1, 3, 12, 10)).astype(np.float32)
    wanted = gm.explain(model, x, 2)
    heatmap, scores = session_of(path).run(
        ["heatmap", "scores"], {"x": x, "class_index": np.array([2])}
    )
    np.testing.assert_allclose(heatmap, wanted.heatmap, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(scores[:, 2], wanted.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("free", [False, True])
def test_lines_pictures_and_volumes(tmp_path, axes, free):
    model = conv_model(axes, free=free)
    path = gm.export(model, tmp_path / "out.onnx", method="layercam", inputs=None)
    session = session_of(path)
    random = np.random.default_rng(axes)
    # A grid of other proportions where the model leaves it free.
    size = (11, 14, 9)[:axes] if free else (12,) * axes
    x = random.normal(size=(3, 2, *size)).astype(np.float32)
    wanted = gm.explain(model, x, [0, 1, 2], method="layercam").heatmap
    (found,) = session.run(["heatmap"], {"x": x, "class_index": np.array([0, 1, 2])})
    assert found.shape == (3, *size)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_axes_that_follow_from_a_shape(tmp_path):
    """With the size in the file they are constants, and the batch stays free."""
    x = np.random.default_rng(1).normal(size=(3, 3, 10, 12)).astype(np.float32)
    path = gm.export(axes_model(), tmp_path / "out.onnx", layer="a", inputs=x[:2])
    wanted = gm.explain(axes_model(), x, [0, 1, 2], layer="a").heatmap
    feeds = {"x": x, "class_index": np.array([0, 1, 2])}
    (found,) = session_of(path).run(["heatmap"], feeds)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_channels_last(tmp_path):
    model = conv_model(2, last=True)
    path = gm.export(model, tmp_path / "out.onnx")
    x = np.random.default_rng(0).normal(size=(2, 12, 12, 2)).astype(np.float32)
    (found,) = session_of(path).run(["heatmap"], {"x": x})
    np.testing.assert_allclose(found, gm.explain(model, x).heatmap, rtol=0, atol=TOLERANCE)
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert said["gradcam_multi.layout"] == "channels_last"


def test_a_class_that_must_be_given(tmp_path):
    path = gm.export(build(probe_network()), tmp_path / "out.onnx", class_input="required")
    session, inputs = session_of(path), probe_inputs(2)
    assert [value.name for value in session.get_inputs()] == ["input", "class_index"]
    assert not session.get_overridable_initializers()
    (found,) = session.run(["heatmap"], {"input": inputs, "class_index": np.array([-1])})
    wanted = gm.explain(build(probe_network()), inputs).heatmap
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_names_that_clash(tmp_path):
    model = onnx.load_from_string(build(probe_network(softmax=True)))
    taken = {"relu2": "heatmap", "logits": "class", "probabilities": "scores", "gap": "cotangent"}
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [taken.get(name, name) for name in field]
    model.graph.output[0].name = "scores"
    path = gm.export(model, tmp_path / "out.onnx", layer="heatmap")
    feeds = {"input": probe_inputs(2)}
    names = [value.name for value in session_of(path).get_outputs()]
    assert names == ["scores", "class", "heatmap", "scores_of_model"]
    (found,) = session_of(path).run(["heatmap"], feeds)
    wanted = gm.explain(model, feeds["input"]).heatmap
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_weights_beside_the_file(tmp_path):
    model = onnx.load_from_string(build(probe_network()))
    onnx.save_model(
        model, tmp_path / "big.onnx", save_as_external_data=True, location="big.data",
        size_threshold=0,
    )  # fmt: skip
    path = gm.export(tmp_path / "big.onnx", tmp_path / "out.onnx")
    (tmp_path / "big.data").unlink()
    assert session_of(path).run(["heatmap"], {"input": probe_inputs(1)})[0].max() == 1
    model = onnx.load_from_string(build(probe_network()))
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.dims[:] = [1 << 29, 2]
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "huge.data"
    from gradcam_multi_onnx.export.prepare import self_contained
    from gradcam_multi_onnx.source import Source

    with pytest.raises(gm.ExportError, match="at most 2 GB"):
        self_contained(Source("a model", data=model.SerializeToString()))


def test_the_script_in_the_documentation(tmp_path):
    """In a process of its own, in which nothing else may be imported."""
    import re
    import subprocess
    import sys

    from PIL import Image

    from gradcam_multi.demo import load_examples, load_network

    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    script = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "ort." in b)
    assert len([line for line in script.splitlines() if line.strip()]) <= 10
    scene = load_examples()[0]
    Image.fromarray(scene.image).save(tmp_path / "photo.png")
    model = build(load_network("sound"))
    gm.export(model, tmp_path / "heatmap.onnx", preprocess="unit")
    script += (
        "import sys\nassert not {'onnx', 'torch', 'gradcam_multi'} & set(sys.modules)\n"
        "np.save('heatmap.npy', heatmap)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    array, _ = gm.Preprocess.named("unit").apply(scene.image)
    if array.shape[1:] == (96, 96):
        wanted = gm.explain(model, array[None]).heatmap
        np.testing.assert_allclose(
            np.load(tmp_path / "heatmap.npy"), wanted, rtol=0, atol=TOLERANCE
        )
    with Image.open(tmp_path / f"class{scene.label}.png") as overlay:
        assert overlay.size == (96, 96)
