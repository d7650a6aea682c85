"""Heatmaps averaged over changed inputs, against explanations of those inputs one by one."""

import numpy as np
import pytest

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
