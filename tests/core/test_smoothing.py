"""Heatmaps averaged over changed inputs, against explanations of those inputs one by one."""

from dataclasses import replace

import numpy as np
import numpy_adapter
import pytest
from cam_references import principal, slow_resize

import gradcam_multi as gm
from gradcam_multi.testing import probe_inputs, probe_network


def test_flip_is_the_mean_with_the_mirrored_input_s_map():
    network, inputs = probe_network(), probe_inputs(3)
    plain = gm.explain(network, inputs)
    mirrored = gm.explain(network, inputs[..., ::-1], list(plain.classes))
    found = gm.explain(network, inputs, smooth="flip")
    expected = (plain.heatmap + mirrored.heatmap[..., ::-1]) / 2
    np.testing.assert_allclose(found.cam, expected, rtol=0, atol=1e-6)  # float32, resized mirrored
    np.testing.assert_array_equal(found.scores, plain.scores)
    assert (found.layer, found.cost, found.classes) == ("relu2", 2, plain.classes)


@pytest.mark.parametrize("method", ["gradcam", "eigencam", "recipro-cam"])
def test_noise_is_the_mean_over_noisy_inputs(method):
    network, inputs = probe_network(), probe_inputs(2)
    found = gm.explain(network, inputs, method=method, smooth="noise", samples=3, seed=5)
    plain = gm.explain(network, inputs, method=method)
    total = plain.heatmap.astype(float)
    for sample in range(3):
        noise = np.random.default_rng([5, sample]).normal(0, 0.15, inputs.shape[1:])
        spread = np.ptp(inputs.reshape(2, -1), axis=1).reshape(2, 1, 1, 1)
        noisy = (inputs + spread * noise).astype(np.float32)
        total += gm.explain(network, noisy, list(plain.classes), method=method).heatmap
    # Noise is rounded to float32 before it is added, or the sum after.
    np.testing.assert_allclose(found.cam, total / 4, rtol=0, atol=1e-5)
    again = gm.explain(network, inputs, method=method, smooth="noise", samples=3, seed=5)
    np.testing.assert_array_equal(again.cam, found.cam)
    other = gm.explain(network, inputs, method=method, smooth="noise", samples=3, seed=6)
    assert not np.allclose(other.cam, found.cam)


def test_an_item_does_not_depend_on_its_batch():
    network, inputs = probe_network(), probe_inputs(3)
    two = {"layer": ["relu1", "relu2"], "fuse": "mean"}
    whole = gm.explain(network, inputs, 2, smooth="noise", samples=2, **two)
    for item in range(3):
        alone = gm.explain(network, inputs[item : item + 1], 2, smooth="noise", samples=2, **two)
        np.testing.assert_allclose(alone.cam[0], whole.cam[item], rtol=0, atol=1e-6)  # float32


def test_an_unknown_smoothing():
    with pytest.raises(gm.InputError, match=r"smooth='flips' was asked for; .* mean 'flip'\?"):
        gm.explain(probe_network(), probe_inputs(1), smooth="flips")


@pytest.mark.parametrize("method", ["ablationcam", "gradcam", "random-cam"])
def test_pca_is_the_component_of_the_weighted_channels(method):
    network, inputs = probe_network(), probe_inputs(2)
    found = gm.explain(network, inputs, 2, method=method, layer="relu2", smooth="pca", seed=4)
    with gm.Explainer(network).model.trace(inputs, ["relu2"]) as trace:
        a, (output,) = trace.activations[0], trace.logits
        weights = np.zeros((2, 8))
        for k in range(8 if method == "ablationcam" else 0):
            without = a.copy()
            without[:, k] = 0
            weights[:, k] = (trace.logits[output] - trace.replay("relu2", without)[output])[:, 2]
        if method == "gradcam":
            two = np.eye(5, dtype=np.float32)[[2, 2]]
            weights = trace.vjp({output: two})[0].mean((2, 3))
        if method == "random-cam":
            weights = np.tile(np.random.default_rng(4).uniform(-1, 1, 8), (2, 1))
    for item, map_ in enumerate(found.cam):
        expected = np.maximum(principal(weights[item][:, None, None] * a[item].astype(float)), 0)
        # Ablation's weights are differences of float32 scores.
        np.testing.assert_allclose(map_, expected, rtol=0, atol=1e-4 * expected.max())
    assert (found.status, found.layer) == (("ok", "ok"), "relu2")


def test_pca_is_refused_where_no_channels_are_weighed():
    with pytest.raises(gm.MethodError, match=r"'pca' was asked for.* 'rise', which weighs none"):
        gm.explain(probe_network(), probe_inputs(1), method="rise", smooth="pca")


@pytest.fixture
def any_size(monkeypatch):
    """The adapter's networks declare the size that they were drawn for, but take any."""

    class AnySize(numpy_adapter.NumpyModel):
        def __init__(self, module):
            super().__init__(module)
            self.inputs = tuple(
                replace(spec, shape=(*spec.shape[:2], *[None] * len(spec.shape[2:])))
                for spec in self.inputs
            )

    monkeypatch.setattr(numpy_adapter, "NumpyModel", AnySize)


def test_scales_are_the_mean_with_resized_inputs(any_size):
    network, inputs = probe_network(), probe_inputs(2)
    plain = gm.explain(network, inputs)
    found = gm.explain(network, inputs, smooth="scales")
    total = plain.heatmap.astype(float)
    for extent in (12, 20):
        smaller = np.array([[slow_resize(c, (extent, extent)) for c in image] for image in inputs])
        cam = gm.explain(network, smaller.astype(np.float32), list(plain.classes)).cam
        large = np.array([slow_resize(map_, (16, 16)) for map_ in cam])
        low, high = large.min((1, 2), keepdims=True), large.max((1, 2), keepdims=True)
        total += (large - low) / (high - low)
    # Resized in float32 before it is explained.
    np.testing.assert_allclose(found.cam, total / 3, rtol=0, atol=1e-5)
    assert (found.size, found.cost, found.layer) == ((16, 16), 3, "relu2")


def test_scales_of_a_method_that_makes_its_map_in_the_input(any_size):
    found = gm.explain(probe_network(), probe_inputs(2), method="rise", samples=2, smooth="scales")
    assert found.cam.shape == (2, 16, 16)
    assert found.status == ("ok", "ok")


def test_inputs_of_a_fixed_size_have_no_scales():
    with pytest.raises(gm.InputError, match=r"'scales' .* input 'image' has the fixed size 16x16"):
        gm.explain(probe_network(), probe_inputs(1), smooth="scales")
