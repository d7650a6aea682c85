"""The demo's networks, built by each adapter from the same arrays."""

import numpy as np
import pytest
from closeness import assert_close

from gradcam_multi import Explainer
from gradcam_multi.cam import GRADIENT_METHODS
from gradcam_multi.demo import as_inputs, load_examples, load_network
from gradcam_multi.plugins import installed
from gradcam_multi.testing import Reference


@pytest.mark.parametrize("method", GRADIENT_METHODS)
@pytest.mark.parametrize("network", ["sound", "shortcut"])
def test_maps_agree(network, method):
    inputs = as_inputs(load_examples())
    described = load_network(network)
    expected = None
    for backend in ("torch", "onnx", "tensorflow"):
        explainer = Explainer(installed().build(described, backend), method=method)
        assert explainer.model.backend == backend
        arrays = np.moveaxis(inputs, 1, -1) if backend == "tensorflow" else inputs
        got = explainer(arrays)
        expected = expected or got
        assert got.classes == expected.classes
        # Five convolutions in float32.
        assert_close(got.cam, expected.cam, 1e-4, f"{backend}, {method}")
    logits = Reference(described, inputs).logits
    np.testing.assert_allclose(expected.logits, logits, rtol=0, atol=1e-4 * np.abs(logits).max())
