"""Comparisons between frameworks: a real network in three, in half precision, and broken."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from architectures_torch import squeezenet
from click.testing import CliRunner
from onnx import numpy_helper
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.cli import main
from gradcam_multi.demo import as_inputs, load_examples, load_network
from gradcam_multi.plugins import installed

DATA = Path(__file__).parents[3] / "shared" / "data"
MODELS, PHOTOS = DATA / "models", DATA / "photos"
real = pytest.mark.skipif(not MODELS.exists(), reason="../shared/data is absent")

CORRELATION = 0.9999  # three float32 runs of one network; measured 1 - 1e-12 at worst
HALF = 2e-2  # activations of up to 300 in 11 bits; measured 2e-4


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@real
def test_three_forms_of_squeezenet_look_at_the_same_place():
    photos = sorted(PHOTOS.iterdir())
    found = gm.compare(
        squeezenet(MODELS / "squeezenet1_1.pth"),
        [MODELS / f"squeezenet1_1{name}" for name in (".onnx", ".keras", "_fp16.onnx")],
        photos,
        preprocess="caffe",
        min_agreement=1.0,
    )
    assert found.passed, found.failures
    assert [model.backend for model in found.others] == ["onnx", "tensorflow", "onnx"]
    assert all(model.raw for model in found.others)
    assert len(found.pairs) == 3 * 14
    for pair in found.pairs:
        assert pair.agreement.status == "ok"
        assert pair.agreement.pearson > CORRELATION
        assert pair.agreement.spearman > CORRELATION
        assert pair.agreement.peak_shift == 0
        half = pair.model.endswith("fp16.onnx")
        assert pair.agreement.map_difference < (HALF if half else 1e-4)
        assert pair.drift < (HALF if half else 1e-4)


@real
def test_the_command_passes_what_is_equal():
    result = run(
        "compare", MODELS / "squeezenet1_1.onnx", MODELS / "squeezenet1_1.keras",
        MODELS / "squeezenet1_1_fp16.onnx", PHOTOS, "--preprocess", "caffe", "--json",
        "--max-drift", "0.02", "--min-correlation", CORRELATION, "--min-agreement", "1",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["passed"]
    assert [len(other["images"]) for other in report["others"]] == [14, 14]


@real
def test_shuffled_last_layers_fail_and_the_panel_shows_it(tmp_path):
    model = onnx.load(MODELS / "squeezenet1_1.onnx")
    rng, count = np.random.default_rng(0), 0
    for tensor in model.graph.initializer:
        if tensor.name.startswith(("fire9", "conv10")):
            array = numpy_helper.to_array(tensor)
            mixed = rng.permutation(array.ravel()).reshape(array.shape)
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
            count += 1
    assert count == 8
    onnx.save(model, tmp_path / "shuffled.onnx")
    result = run(
        "compare", MODELS / "squeezenet1_1.onnx", tmp_path / "shuffled.onnx", PHOTOS,
        "--preprocess", "caffe", "--labels", DATA / "imagenet_classes.csv", "--json",
        "-o", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 1
    (other,) = json.loads(result.stdout)["others"]
    assert all(image["drift"] > 0.2 for image in other["images"])
    # What the panel shows is not the same picture twice: from the worst case's row.
    with Image.open(tmp_path / "worst.png") as panel:
        assert panel.height > 4 * 256
        pixels = np.asarray(panel).astype(int)
    blue, red = pixels[..., 2] - pixels[..., 0] > 60, pixels[..., 0] - pixels[..., 2] > 60
    last = pixels.shape[1] * 3 // 4  # the difference: blue where the reference looked more
    assert blue[:, last:].sum() > 1000
    assert red[:, last:].sum() > 1000


def test_arrays_are_turned_to_each_models_layout():
    network = load_network("sound")
    models = {name: installed().build(network, name) for name in ("onnx", "torch", "tensorflow")}
    scenes = load_examples()
    first = as_inputs(scenes)
    last = first.transpose(0, 2, 3, 1)
    for reference, inputs in (("onnx", first), ("torch", first), ("tensorflow", last)):
        others = [model for name, model in models.items() if name != reference]
        found = gm.compare(models[reference], others, inputs, max_drift=1e-4)
        assert found.passed, found.failures
    pictures = gm.compare(
        models["tensorflow"], [models["torch"], models["onnx"]], [s.image for s in scenes],
        preprocess="unit", max_drift=1e-4,
    )  # fmt: skip
    assert pictures.passed, pictures.failures


def test_doctor_in_three_frameworks():
    network = load_network("sound")
    versions = {"onnx": "ONNX Runtime", "torch": "PyTorch", "tensorflow": "TensorFlow"}
    norms = {}
    for backend, framework in versions.items():
        inputs = as_inputs(load_examples())
        if backend == "tensorflow":
            inputs = inputs.transpose(0, 2, 3, 1)
        found = gm.doctor(installed().build(network, backend), inputs)
        assert found.explainable, found.problem
        assert found.framework.startswith(framework)
        assert found.candidates[0].grid == (12, 12)
        refused = [check.name for check in found.methods if not check.works]
        assert refused == ["legrad"]  # of token models
        norms[backend] = found.candidates[0].gradient_norm
    assert norms["torch"] == pytest.approx(norms["onnx"], rel=1e-5)  # float32
    assert norms["tensorflow"] == pytest.approx(norms["onnx"], rel=1e-5)


def test_doctor_guesses_what_a_module_takes():
    """A module cannot say before it has run."""
    module = installed().build(load_network("sound"), "torch")
    found = gm.doctor(module)
    assert found.explainable, found.problem
    assert "(2, 3, 224, 224)" in found.test_input
    import torch

    other = gm.doctor(torch.nn.Sequential(torch.nn.Conv2d(7, 4, 3), torch.nn.Flatten()))
    assert not other.explainable
    assert "give an input that it takes" in other.problem
