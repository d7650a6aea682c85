"""Token models exported to ONNX by both of PyTorch's exporters, and as heatmap files."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from architectures_tokens import TOKENS, TokenModel
from architectures_torch import seeded
from click.testing import CliRunner
from default_layers import check
from exports_torch import Network, exported
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.cli import main
from gradcam_multi.plugins import installed


@pytest.fixture(autouse=True)
def _no_fused_layers():
    """PyTorch's exporters know no fused encoder layer."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def built(described: TokenModel) -> tuple[torch.nn.Module, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(2, 3, *described.size)).astype(np.float32)
    return seeded(described.build), x


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("new", [True, False], ids=["new", "old"])
@pytest.mark.parametrize("name", TOKENS)
def test_of_exports(name, new):
    described = TOKENS[name]
    module, x = built(described)
    check(module, exported(Network(described.build, x.shape[1:]), module, new=new), x)


@pytest.mark.parametrize("name", ["deit_wide", "encoder_sequence_first"])
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_heatmap_file(name, method, tmp_path):
    module, x = built(TOKENS[name])
    path = gm.export(module, tmp_path / "file.onnx", method=method, inputs=x)
    expected = gm.explain(module, x, 3, method=method)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x, "class_index": np.array([3])}
    (heatmap,) = session.run(["heatmap"], feeds)
    # Two runtimes, some ten layers: noise of float32 in a map that is stretched to [0, 1].
    np.testing.assert_allclose(heatmap, expected.heatmap, atol=1e-3)


def test_heatmap_file_of_a_grid_that_is_named(tmp_path):
    module, x = built(TOKENS["deit"])
    data = installed().to_onnx(module, x)
    path = gm.export(data, tmp_path / "file.onnx", inputs=x, grid=(2, 8))
    expected = gm.explain(module, x, 3, grid=(2, 8))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: x, "class_index": np.array([3])}
    np.testing.assert_allclose(session.run(["heatmap"], feeds)[0], expected.heatmap, atol=1e-3)


def test_gradient_file(tmp_path):
    module, x = built(TOKENS["deit"])
    path = gm.export(module, tmp_path / "file.onnx", kind="gradient", inputs=x)
    expected, found = gm.explain(module, x, 3), gm.explain(str(path), x, 3)
    assert found.cam.shape == (2, 4, 4)
    np.testing.assert_allclose(found.cam, expected.cam, atol=1e-3 * expected.cam.max())


def test_command_line(tmp_path):
    module, x = built(TOKENS["deit"])
    model, photo = tmp_path / "model.onnx", tmp_path / "photo.png"
    model.write_bytes(installed().to_onnx(module, x))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(photo)
    listed = CliRunner().invoke(main, ["layers", str(model)])
    (default,) = [line for line in listed.stdout.splitlines() if line.startswith("*")]
    assert "(N, 18, 32)" in default
    assert "4x4+2" in default.split()
    arguments = ["explain", str(model), str(photo), "--grid", "2x8", "--json"]
    told = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "out")])
    (record,) = json.loads(told.stdout)
    assert np.shape(record["explanations"][0]["cam"]) == (2, 8)
