"""LeGrad of token models and of their ONNX exports: by PyTorch's two exporters, by Keras'."""

import numpy as np
import pytest
import torch
from architectures_attention import ATTENTION
from architectures_keras_tokens import TOKENS as KERAS_TOKENS
from architectures_tokens import TOKENS
from architectures_torch import seeded
from closeness import assert_close
from exports_torch import Network, exported

import gradcam_multi as gm
from gradcam_multi.plugins import installed

NETWORKS = {
    **{name: (TOKENS[name].build, TOKENS[name].size) for name in (
        "deit", "deit_wide", "encoder", "encoder_after", "encoder_sequence_first"
    )},
    **{name: (ATTENTION[name], (64, 64)) for name in ("vit", "vit_pooled", "coatnet")},
}  # fmt: skip
TOLERANCE = 1e-4  # three blocks in float32, in two runtimes


@pytest.fixture(autouse=True)
def _no_fused_layers():
    """PyTorch's exporters know no fused encoder layer."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("new", [True, False], ids=["new", "old"])
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_agree(name, new):
    build, size = NETWORKS[name]
    module = seeded(build)
    x = np.random.default_rng(0).normal(size=(2, 3, *size)).astype(np.float32)
    data = exported(Network(build, x.shape[1:]), module, new=new)
    expected, found = (gm.explain(model, x, 3, method="legrad") for model in (module, data))
    assert (found.status, found.cost) == (expected.status, expected.cost)
    assert_close(found.cam, expected.cam, TOLERANCE, name)


def test_maps_of_keras_agree_with_those_of_its_export():
    build, _, grid, _ = KERAS_TOKENS["unconvolved"]
    model = build()
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    found = gm.explain(model, x, 3, method="legrad")
    expected = gm.explain(installed().to_onnx(model, x), x, 3, method="legrad")
    assert (found.status, found.cost) == (expected.status, expected.cost)
    assert found.cam.shape == (2, *grid)
    assert_close(found.cam, expected.cam, TOLERANCE, "unconvolved")
