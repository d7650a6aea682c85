"""A real ImageNet network on real photographs: the same map under every runtime."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from architectures_torch import squeezenet
from closeness import assert_close

from gradcam_multi import Explainer, Preprocess, load_image
from gradcam_multi.cam import GRADIENT_METHODS

DATA = Path(__file__).parents[3] / "shared" / "data"
MODELS = DATA / "models"
if not MODELS.exists():
    pytest.skip("../shared/data is absent", allow_module_level=True)

PHOTOS = sorted((DATA / "photos").iterdir())
FLOAT32 = 1e-4  # twenty-six convolutions in float32, in three orders of summation
FLOAT16 = 2e-2  # activations of up to 300 in 11 bits


def inputs(layout="channels_first"):
    prepare = Preprocess.named("caffe")
    return np.stack([prepare.apply(load_image(photo), layout=layout)[0] for photo in PHOTOS])


@pytest.fixture(scope="module")
def models():
    return {
        "torch": (squeezenet(MODELS / "squeezenet1_1.pth"), inputs()),
        "onnx": (MODELS / "squeezenet1_1.onnx", inputs()),
        "tensorflow": (MODELS / "squeezenet1_1.keras", inputs("channels_last")),
        "onnx fp16": (MODELS / "squeezenet1_1_fp16.onnx", inputs()),
    }


def test_there_are_fourteen_photographs():
    assert len(PHOTOS) == 14


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_maps_agree(models, method):
    reference = Explainer(models["torch"][0], method=method)
    top = reference(models["torch"][1])
    others = [(c + 7) % 1000 for c in top.classes]  # a class that is near in the hierarchy
    for targets in (list(top.classes), others):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the other class may have no evidence in a photograph
            expected = reference(models["torch"][1], targets)
            alive = [i for i, status in enumerate(expected.status) if status == "ok"]
            assert len(alive) >= 7, "too few maps to compare"
            for name in ("onnx", "tensorflow", "onnx fp16"):
                model, arrays = models[name]
                got = Explainer(model, method=method)(arrays, targets)
                tolerance = FLOAT16 if "16" in name else FLOAT32
                assert got.status == expected.status
                assert_close(got.cam[alive], expected.cam[alive], tolerance, f"{name}, {method}")


def test_top_classes_and_probabilities_agree(models):
    expected = {name: Explainer(model)(arrays) for name, (model, arrays) in models.items()}
    for name, explanation in expected.items():
        assert explanation.classes == expected["torch"].classes
        atol = 3e-4 if "16" in name else 6e-6  # measured when the files were made
        np.testing.assert_allclose(
            explanation.probabilities, expected["torch"].probabilities, rtol=0, atol=atol
        )


def test_the_default_layer_is_the_final_concatenation(models):
    captured = {}
    for name, (model, arrays) in models.items():
        explainer = Explainer(model)
        default = explainer.layers(arrays[:1]).default
        with explainer.model.trace(arrays[:2], [default.name]) as trace:
            captured[name] = trace.activations[0]
        assert captured[name].shape == (2, 512, 13, 13), f"{name}: {default}"
        tolerance = 2e-3 if "16" in name else 1e-5
        scale = np.abs(captured["torch"]).max()
        np.testing.assert_allclose(
            captured[name], captured["torch"], rtol=0, atol=tolerance * scale
        )
