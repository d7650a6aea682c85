"""Several layers' heatmaps as one, against a loop over pixels."""

import numpy as np
import pytest

import gradcam_multi as gm
from gradcam_multi.testing import probe_inputs, probe_network

LAYERS = ["relu1", "conv2", "relu2"]
COMBINED = {
    "mean": lambda values: sum(values) / len(values),
    "max": max,
    "product": np.prod,
}


@pytest.mark.parametrize("fuse", COMBINED)
@pytest.mark.parametrize("method", ["gradcam", "eigencam", "ablationcam"])
def test_layers_are_fused_pixel_by_pixel(method, fuse):
    network, inputs = probe_network(), probe_inputs(2)
    explanation = gm.explain(network, inputs, method=method, layer=LAYERS, fuse=fuse)
    parts = [gm.explain(network, inputs, method=method, layer=layer) for layer in LAYERS]
    assert explanation.layer == "relu1 + conv2 + relu2"
    assert explanation.cost == sum(part.cost for part in parts)
    assert explanation.classes == parts[0].classes
    assert explanation.status == ("ok", "ok")
    for item in range(2):
        expected = np.zeros((16, 16))
        for pixel in np.ndindex(16, 16):
            expected[pixel] = COMBINED[fuse]([part.heatmap[item][pixel] for part in parts])
        np.testing.assert_allclose(explanation.cam[item], expected, rtol=0, atol=1e-6)  # float32
    assert explanation.heatmap.max() == 1


def test_one_layer_in_a_list_is_that_layer():
    network, inputs = probe_network(), probe_inputs(2)
    listed = gm.explain(network, inputs, layer=["relu2"], fuse="mean")
    alone = gm.explain(network, inputs, layer="relu2")
    np.testing.assert_allclose(listed.heatmap, alone.heatmap, rtol=0, atol=1e-6)  # scaled twice


def test_the_status_is_that_of_the_fused_map():
    inputs = probe_inputs(2)
    inputs[0, 0, 0, 0] = np.nan
    with pytest.warns(gm.CamWarning, match="1 of 2 maps: nonfinite"):
        found = gm.explain(probe_network(), inputs, layer=LAYERS, fuse="mean")
    assert found.status == ("nonfinite", "ok")
    assert not found.cam[0].any()
    with pytest.warns(gm.CamWarning, match="2 of 2 maps: zero_gradient"):
        found = gm.explain(
            probe_network(dense="zero"), probe_inputs(2), 1, layer=LAYERS, fuse="mean"
        )
    assert not found.heatmap.any()


def test_what_is_asked_wrongly():
    network, inputs = probe_network(), probe_inputs(2)
    with pytest.raises(gm.InputError, match=r"fuse='maximum' was asked for; .* mean 'max'\?"):
        gm.explain(network, inputs, layer=LAYERS, fuse="maximum")
    with pytest.raises(gm.LayerError, match="relu9"):
        gm.explain(network, inputs, layer=["relu1", "relu9"], fuse="max")
