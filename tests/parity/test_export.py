"""PyTorch modules and Keras models as heatmap files, against their own maps."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from architectures_torch import ARCHITECTURES, ResNet, seeded, squeezenet
from exports_onnx import session_of

import gradcam_multi as gm
from gradcam_multi.demo import as_inputs, load_examples, load_network
from gradcam_multi.plugins import installed

MODELS = Path(__file__).parents[3] / "shared" / "data" / "models"
TOLERANCE = 1e-3  # two frameworks' float32, in maps stretched to [0, 1]

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")


def compare(model, path, inputs, **options):
    """The file's heatmaps against the framework's own, for two classes each."""
    session = session_of(path)
    name = session.get_inputs()[0].name
    explainer = gm.Explainer(model, **options)
    for target in (None, 2):
        wanted = explainer(inputs, target)
        classes = np.array(wanted.classes, np.int64)
        found, heatmap = session.run(
            ["class", "heatmap"], {name: np.asarray(inputs), "class_index": classes}
        )
        assert found.tolist() == classes.tolist()
        np.testing.assert_allclose(heatmap, wanted.heatmap, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("layer", [None, "layer2"])
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_a_torch_module(tmp_path, layer, method):
    model = seeded(ResNet, (1, 1, 1, 1), 16, 10)
    model.train()  # the exported file is that of inference, and the module stays as it was
    inputs = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    path = gm.export(model, tmp_path / "out.onnx", inputs=inputs[:2], layer=layer, method=method)
    assert model.training
    compare(model, path, inputs, layer=layer, method=method)  # any batch: 3, checked with 2
    said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert said["gradcam_multi.layer"] == (layer or gm.explain(model, inputs).layer)


def test_torch_without_its_newer_exporter(tmp_path, monkeypatch):
    from gradcam_multi_torch import onnx_export

    monkeypatch.setattr(
        onnx_export, "find_spec", lambda name: None if name == "onnxscript" else object()
    )
    model = installed().build(load_network("sound"), "torch")
    inputs = as_inputs(load_examples())
    path = gm.export(model, tmp_path / "out.onnx", inputs=torch.from_numpy(inputs[:1]))
    compare(model, path, inputs)


def test_torch_needs_inputs(tmp_path):
    model = installed().build(load_network("sound"), "torch")
    with pytest.raises(gm.InputError, match="give inputs="):
        gm.export(model, tmp_path / "out.onnx")


def test_a_torch_module_that_cannot_be_exported(tmp_path):
    class Strange(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.dense = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 3)

        def forward(self, x):
            if (
                "Proxy" in type(x).__name__
                or torch.jit.is_tracing()
                or torch.compiler.is_exporting()
            ):
                raise ValueError("not in a trace")
            return self.dense(self.conv(x).mean((2, 3)))

    inputs = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    with pytest.raises(gm.UnsupportedError, match=r"torch.onnx.export cannot export") as raised:
        gm.export(seeded(Strange), tmp_path / "out.onnx", inputs=inputs)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_keras_model_in_memory_and_its_file(tmp_path):
    model = installed().build(load_network("sound"), "tensorflow")
    inputs = np.moveaxis(as_inputs(load_examples()), 1, -1)
    path = gm.export(model, tmp_path / "out.onnx", preprocess="unit")
    compare(model, path, inputs)
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    said = {entry.key: entry.value for entry in file.metadata_props}
    assert said["gradcam_multi.layout"] == "channels_last"
    assert said["gradcam_multi.layer"] == "relu5"
    model.save(tmp_path / "model.keras")
    gradient = gm.export(tmp_path / "model.keras", tmp_path / "g.onnx", kind="gradient")
    found, wanted = gm.explain(gradient, inputs), gm.explain(model, inputs)
    np.testing.assert_allclose(found.heatmap, wanted.heatmap, rtol=0, atol=TOLERANCE)


def test_keras_without_torch(tmp_path, monkeypatch):
    from gradcam_multi_tensorflow import onnx_export

    monkeypatch.setattr(
        onnx_export, "find_spec", lambda name: None if name == "torch" else object()
    )
    model = installed().build(load_network("sound"), "tensorflow")
    with pytest.raises(gm.MissingExtraError, match=r"torch not installed; run: pip install"):
        gm.export(model, tmp_path / "out.onnx")


@pytest.mark.skipif(not MODELS.is_dir(), reason="../shared/data is absent")
def test_the_real_network(tmp_path):
    photos = sorted((MODELS.parent / "photos").iterdir())[:3]
    prepare = gm.Preprocess.named("caffe")
    inputs = np.stack([prepare.apply(gm.load_image(photo))[0] for photo in photos])
    model = squeezenet(MODELS / "squeezenet1_1.pth")
    compare(model, gm.export(model, tmp_path / "t.onnx", inputs=inputs), inputs)
    model = MODELS / "squeezenet1_1.keras"
    path = gm.export(model, tmp_path / "k.onnx", preprocess="caffe")
    compare(model, path, np.moveaxis(inputs, 1, -1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("form", ["export", "trace", "script"])
def test_a_torch_program(tmp_path, form):
    """An exported or scripted program becomes the file that its module becomes."""
    model = ARCHITECTURES["vgg"][0]()
    inputs = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    two = torch.from_numpy(inputs[:2])
    if form == "export":
        free = ({0: torch.export.Dim("batch")},)
        program = torch.export.export(model, (two,), dynamic_shapes=free)
    else:
        program = torch.jit.trace(model, two) if form == "trace" else torch.jit.script(model)
    path = gm.export(program, tmp_path / "out.onnx", inputs=inputs[:2])
    compare(model, path, inputs)
