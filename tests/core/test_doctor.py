"""Diagnoses of NumPy models: facts, layers with gradient norms, methods, and what is wrong."""

import json
from dataclasses import replace

import numpy as np
import pytest

import gradcam_multi as gm
from gradcam_multi.doctor import runners_up
from gradcam_multi.errors import (
    InputError,
    ModelError,
    TargetError,
    UnknownBackendError,
    UnknownLayerError,
)
from gradcam_multi.testing import Reference
from gradcam_multi.testing.reference import probe_network

NETWORK = probe_network(softmax=True)
X = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)


def test_what_is_said_of_a_sound_model():
    found = gm.doctor(NETWORK)
    assert found.explainable
    assert found.problem == ""
    assert (found.model, found.backend, found.size) == ("DemoNetwork", "numpy", None)
    assert found.framework == "numpy"  # the adapter does not tell; its name stands in
    assert found.layer == "relu2"
    assert {check.name for check in found.methods} == set(gm.METHODS)
    refused = [check.name for check in found.methods if not check.works]
    assert refused == ["legrad"]  # of token models
    text = str(found)
    assert "image (N, 3, 16, 16) float32" in text
    assert "ends in a softmax" in text
    assert "2 items of seeded noise" in text
    assert text.splitlines()[-1].endswith("can be explained")
    assert str(gm.doctor(NETWORK)) == text


def test_gradient_norms_are_those_of_the_top_class():
    found = gm.doctor(NETWORK, X)
    reference = Reference(NETWORK, X)
    hot = np.eye(5)[reference.logits.argmax(1)]
    assert [each.name for each in found.candidates] == ["relu2", "relu1", "conv2"]
    assert [each.chosen for each in found.candidates] == [True, False, False]
    for each in found.candidates:
        gradient = reference.vjp(hot, each.name).reshape(3, -1)
        expected = np.sqrt((gradient**2).sum(1)).mean()
        assert each.gradient_norm == pytest.approx(expected, rel=1e-5)  # float32 gradients
        assert f"gradient norm {expected:.3g}" in str(found)


def test_the_runners_up_are_the_last_of_each_finer_grid():
    layers = [
        gm.Layer("a", "Conv", "conv", (None, 4, 32, 32), 1),
        gm.Layer("b", "Relu", "other", (None, 4, 32, 32), 1),
        gm.Layer("p", "MaxPool", "pool", (None, 4, 16, 16), 1),
        gm.Layer("c", "Conv", "conv", (None, 4, 16, 16), 1),
        gm.Layer("d", "Conv", "conv", (None, 4, 8, 8), 1),
        gm.Layer("e", "Conv", "conv", (None, 4, 8, 8), 1),
        gm.Layer("f", "Relu", "other", (None, 4, 8, 8), 1),
        gm.Layer("g", "AveragePool", "pool", (None, 4, 4, 4), 1),
    ]
    found = runners_up(gm.Layers(layers), layers[6])
    assert [each.name for each in found] == ["c", "b", "e", "d"]
    assert [each.name for each in runners_up(gm.Layers(layers), layers[6], 1)] == ["c"]


def test_a_model_whose_score_ignores_the_layer():
    found = gm.doctor(probe_network(dense="zero"))
    assert found.explainable  # it runs; what its maps are worth is said beside each method
    # That of token models is refused before it looks at the layer.
    others = [check for check in found.methods if check.name != "legrad"]
    assert all("zero_gradient" in check.note for check in others)
    assert found.candidates[0].gradient_norm == 0
    assert "zero_gradient" in str(found)


def test_a_model_without_a_feature_map():
    late = [layer for layer in NETWORK.layers if layer.kind not in ("conv", "relu", "maxpool")]
    weights = {**NETWORK.weights, "logits.weight": NETWORK.weights["logits.weight"][:, :3]}
    found = gm.doctor(replace(NETWORK, layers=tuple(late), weights=weights))
    assert not found.explainable
    assert "name one with layer=" in found.problem
    assert "cannot be explained: " in str(found)
    assert found.outputs


def test_a_layer_behind_the_score_is_a_diagnosis():
    network = probe_network(softmax=True)
    found = gm.doctor(network, layer="logits")
    assert not found.explainable
    assert "grid" in found.problem
    assert str(found).count(found.problem) == 1  # not once for every method


def test_an_object_that_nobody_claims():
    found = gm.doctor({"not": "a model"})
    assert not found.explainable
    assert "not claimed by" in found.problem
    assert found.model == "dict"


def test_what_is_wrong_with_the_question_is_raised(tmp_path):
    with pytest.raises(UnknownBackendError):
        gm.doctor(NETWORK, backend="nunpy")
    with pytest.raises(UnknownLayerError, match="did you mean 'relu2'"):
        gm.doctor(NETWORK, layer="relu22")
    with pytest.raises(TargetError):
        gm.doctor(NETWORK, output="boxes")
    with pytest.raises(InputError):
        gm.doctor(NETWORK, X[:, :2])
    with pytest.raises(ModelError):
        gm.doctor(tmp_path / "absent.xyz")
    with pytest.raises(gm.ImageError):
        gm.doctor(NETWORK, image=tmp_path / "absent.png")
    with pytest.raises(gm.PreprocessError):
        gm.doctor(NETWORK, image=np.zeros((9, 9, 3), np.uint8), preprocess="imagnet")


def test_a_picture_as_the_test_input():
    picture = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)
    found = gm.doctor(NETWORK, image=picture, preprocess="unit")
    array, _ = gm.Preprocess.named("unit").apply(picture, size=(16, 16))
    assert found.candidates == gm.doctor(NETWORK, array[None]).candidates
    assert found.test_input == "a given picture"


def test_the_json_report_has_these_keys():
    report = json.loads(gm.doctor(NETWORK, X).to_json())
    assert set(report) == {
        "schema", "explainable", "model", "size", "backend", "framework", "inputs", "outputs",
        "test_input", "layer", "candidates", "methods", "problem",
    }  # fmt: skip
    assert report["candidates"][0]["name"] == "relu2"
    assert report["test_input"] == "3 given items"
    assert report["outputs"][0]["activation"] == "softmax"
