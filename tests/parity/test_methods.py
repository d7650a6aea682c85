"""Every method: the same maps in every framework."""

import warnings

import numpy as np
import onnx
import pytest
from closeness import assert_close

from gradcam_multi import METHODS, CamWarning, Explainer, concepts
from gradcam_multi.demo import as_inputs, load_examples, load_network
from gradcam_multi.plugins import installed

TOLERANCE = 1e-4  # five convolutions in float32; ablation takes differences of their scores


@pytest.fixture(scope="module")
def models():
    described = load_network("sound")
    return {name: installed().build(described, name) for name in ("torch", "onnx", "tensorflow")}


# Those of token models are compared in test_blocks.py.
@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if "attention" not in m.needs])
def test_maps_agree(models, method):
    check(models, method)


@pytest.mark.parametrize("method", ["ablationcam", "gradcam", "hirescam"])
def test_components_of_weighted_channels_agree(models, method):
    check(models, method, smooth="pca")


def test_maps_of_resized_inputs_agree(models):
    described = onnx.load_from_string(models["onnx"])
    for dimension in described.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_param = "any"  # the demo's are fixed, and Keras's with them
    free = {"torch": models["torch"], "onnx": described.SerializeToString()}
    check(free, "gradcam", smooth="scales")


def test_concepts_agree(models):
    inputs = as_inputs(load_examples())[:3]
    expected = None
    for backend, model in models.items():
        arrays = np.moveaxis(inputs, 1, -1) if backend == "tensorflow" else inputs
        got = concepts(model, arrays, 4)
        expected = expected or got
        # The rounds of a factorization magnify the rounding of the activations.
        for part in ("maps", "vectors", "logits"):
            own, first = (getattr(one, part).reshape(1, 4, -1) for one in (got, expected))
            assert_close(own, first, 10 * TOLERANCE, f"{backend}, {part}")


def check(models, method, **settings):
    inputs = as_inputs(load_examples())[:2]
    expected = None
    for backend, model in models.items():
        arrays = np.moveaxis(inputs, 1, -1) if backend == "tensorflow" else inputs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CamWarning)  # a random map may have nothing positive
            got = Explainer(model, method=method, samples=3, seed=1, **settings)(arrays)
        expected = expected or got
        assert (got.status, got.cost) == (expected.status, expected.cost)
        alive = [i for i, status in enumerate(expected.status) if status == "ok"]
        assert alive, "no item has a map to compare"
        assert_close(got.cam[alive], expected.cam[alive], TOLERANCE, f"{backend}, {method}")
        assert (got.attribution is None) == (expected.attribution is None)
        if got.attribution is not None:  # channels first, whatever the model's layout
            found = f"{backend}, {method}, attribution"
            own, first = (e.attribution[alive].reshape(len(alive), 1, -1) for e in (got, expected))
            assert_close(own, first, TOLERANCE, found)
