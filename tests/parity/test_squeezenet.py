"""A real ImageNet network on real photographs: the same map under every runtime."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from architectures_torch import squeezenet
from closeness import assert_close

from gradcam_multi import Explainer, Preprocess, load_image
from gradcam_multi.cam import GRADIENT_METHODS
from gradcam_multi.metrics.evaluator import with_method

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
def opened():
    """Explainers and what they take; opened once, since each opening traces and compiles."""
    models = {
        "torch": (squeezenet(MODELS / "squeezenet1_1.pth"), inputs()),
        "onnx": (MODELS / "squeezenet1_1.onnx", inputs()),
        "tensorflow": (MODELS / "squeezenet1_1.keras", inputs("channels_last")),
        "onnx fp16": (MODELS / "squeezenet1_1_fp16.onnx", inputs()),
    }
    return {name: (Explainer(model), arrays) for name, (model, arrays) in models.items()}


@pytest.fixture(scope="module")
def predicted(opened):
    """What each form explains when it is asked for no class."""
    return {name: explainer(arrays) for name, (explainer, arrays) in opened.items()}


def test_there_are_fourteen_photographs():
    assert len(PHOTOS) == 14


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_maps_agree(opened, predicted, method):
    explainers = {name: with_method(each, method) for name, (each, _) in opened.items()}
    top = predicted["torch"].classes
    others = [(c + 7) % 1000 for c in top]  # a class that is near in the hierarchy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the other class may have no evidence in a photograph
        found = {
            name: explainers[name].several(arrays, [list(top), others])
            for name, (_, arrays) in opened.items()
        }
    for name in ("onnx", "tensorflow", "onnx fp16"):
        tolerance = FLOAT16 if "16" in name else FLOAT32
        for got, expected in zip(found[name], found["torch"], strict=True):
            alive = [i for i, status in enumerate(expected.status) if status == "ok"]
            assert len(alive) >= 7, "too few maps to compare"
            assert got.status == expected.status
            assert_close(got.cam[alive], expected.cam[alive], tolerance, f"{name}, {method}")


def test_top_classes_and_probabilities_agree(predicted):
    expected = predicted["torch"]
    for name, explanation in predicted.items():
        assert explanation.classes == expected.classes
        atol = 3e-4 if "16" in name else 6e-6  # measured when the files were made
        np.testing.assert_allclose(
            explanation.probabilities, expected.probabilities, rtol=0, atol=atol
        )


def test_the_default_layer_is_the_final_concatenation(opened):
    captured = {}
    for name, (explainer, arrays) in opened.items():
        default = explainer.layers(arrays[:1]).default
        with explainer.model.trace(arrays[:2], [default.name]) as trace:
            captured[name] = trace.activations[0]
        assert captured[name].shape == (2, 512, 13, 13), f"{name}: {default}"
        tolerance = 2e-3 if "16" in name else 1e-5
        scale = np.abs(captured["torch"]).max()
        np.testing.assert_allclose(
            captured[name], captured["torch"], rtol=0, atol=tolerance * scale
        )
