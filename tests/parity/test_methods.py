"""The methods that are no functions of gradients alone: the same maps in every framework."""

import warnings

import numpy as np
import pytest
from closeness import assert_close

from gradcam_multi import METHODS, CamWarning, Explainer
from gradcam_multi.cam import GRADIENT_METHODS
from gradcam_multi.demo import as_inputs, load_examples, load_network
from gradcam_multi.plugins import installed

OTHERS = [name for name in METHODS if name not in GRADIENT_METHODS]
TOLERANCE = 1e-4  # five convolutions in float32; ablation takes differences of their scores


@pytest.fixture(scope="module")
def models():
    described = load_network("sound")
    return {name: installed().build(described, name) for name in ("torch", "onnx", "tensorflow")}


@pytest.mark.parametrize("method", OTHERS)
def test_maps_agree(models, method):
    inputs = as_inputs(load_examples())[:2]
    expected = None
    for backend, model in models.items():
        arrays = np.moveaxis(inputs, 1, -1) if backend == "tensorflow" else inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CamWarning)  # a random map may have nothing positive
            got = Explainer(model, method=method, samples=3, seed=1)(arrays)
        expected = expected or got
        assert (got.status, got.cost) == (expected.status, expected.cost)
        alive = [i for i, status in enumerate(expected.status) if status == "ok"]
        assert alive, "no item has a map to compare"
        assert_close(got.cam[alive], expected.cam[alive], TOLERANCE, f"{backend}, {method}")
        assert (got.attribution is None) == (expected.attribution is None)
        if got.attribution is not None:  # channels first, whatever the model's layout
            found = f"{backend}, {method}, attribution"
            assert_close(got.attribution[alive], expected.attribution[alive], TOLERANCE, found)
