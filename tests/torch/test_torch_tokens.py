"""Token models in PyTorch: the layer, the grid and the map, against autograd by hand."""

import warnings

import numpy as np
import pytest
import torch
from architectures_attention import swin
from architectures_tokens import TOKENS, Blind, Encoder
from architectures_torch import seeded

import gradcam_multi as gm
from gradcam_multi.errors import LayerError


def drawn(size, count=2):
    return np.random.default_rng(0).normal(size=(count, 3, *size)).astype(np.float32)


def by_hand(module, layer, x, target, grid, *, batch_first=True):
    """Grad-CAM (N, *grid) of a module's own result, its last tokens being the grid's cells."""
    kept = {}
    hook = module.get_submodule(layer).register_forward_hook(
        lambda part, args, output: kept.update(a=output) or output.clone()
    )
    with torch.enable_grad():
        score = module(torch.from_numpy(x))[:, target].sum()
        (g,) = torch.autograd.grad(score, kept["a"])
    hook.remove()
    a = kept["a"]
    if a.ndim == 4:
        a, g = a.flatten(2).transpose(1, 2), g.flatten(2).transpose(1, 2)
    if not batch_first:
        a, g = a.transpose(0, 1), g.transpose(0, 1)
    cells = grid[0] * grid[1]
    a, g = a[:, -cells:], g[:, -cells:]
    cam = torch.relu((a * g.mean(1, keepdim=True)).sum(-1))
    return cam.reshape(-1, *grid).detach().numpy()


@pytest.mark.parametrize("name", TOKENS)
def test_need_06_default_layer_and_map(name):
    described = TOKENS[name]
    module, x = seeded(described.build), drawn(described.size)
    explanation = gm.explain(module, x, 3)
    assert explanation.layer == described.layer
    assert explanation.cam.shape == (2, *described.grid)
    assert explanation.heatmap.shape == (2, *described.size)
    first = name != "encoder_sequence_first"
    expected = by_hand(module, described.layer, x, 3, described.grid, batch_first=first)
    # float32 through the same operations; the order of sums differs.
    np.testing.assert_allclose(explanation.cam, expected, atol=1e-5 * expected.max())
    assert expected.max() > 0


def test_items_are_not_mixed_where_the_sequence_is_in_front():
    module, x = seeded(TOKENS["encoder_sequence_first"].build), drawn((32, 32), 3)
    whole = gm.explain(module, x, [1, 2, 3])
    for item in range(3):
        alone = gm.explain(module, x[item : item + 1], item + 1)
        np.testing.assert_allclose(alone.cam[0], whole.cam[item], atol=1e-5)


@pytest.mark.parametrize("name", ["deit", "encoder_sequence_first"])
def test_replay_gives_the_same_scores(name):
    module, x = seeded(TOKENS[name].build), drawn((32, 32))
    explainer = gm.Explainer(module)
    with explainer.traced(x) as trace:
        layer = TOKENS[name].layer
        (a,) = trace.activations
        same = trace.replay(layer, a)["output"]
        np.testing.assert_allclose(same, trace.logits["output"], atol=1e-5)
        (g,) = trace.vjp({"output": np.ones_like(same)})
        step = 1e-2 * g / np.abs(g).max()
        changed = trace.replay(layer, a + step)["output"].sum() - same.sum()
        # First order: the step is small, the second order is of its square.
        assert changed == pytest.approx(float((g * step).sum()), rel=0.05)


def test_fused_layers_are_left_as_found():
    module, x = seeded(TOKENS["encoder"].build), drawn((32, 32))
    before = torch.backends.mha.get_fastpath_enabled()
    names = [layer.name for layer in gm.layers(module, x)]
    assert any("self_attn" in name for name in names)
    gm.explain(module, x, 3)
    assert torch.backends.mha.get_fastpath_enabled() is before is True
    with pytest.raises(gm.InputError):
        gm.explain(module, x[:, :2], 3)
    assert torch.backends.mha.get_fastpath_enabled() is True


def test_need_06_the_last_blocks_result_is_dead_and_the_cure_is_named():
    module, x = seeded(TOKENS["encoder"].build), drawn((32, 32))
    with pytest.warns(gm.CamWarning, match=r"zero_gradient.*the default layer is 'layers.1'"):
        explanation = gm.explain(module, x, 3, layer="layers.2")
    assert explanation.status == ("zero_gradient",) * 2
    assert explanation.layer == "layers.2"


def test_a_default_that_is_dead_is_moved_with_a_notice():
    module, x = seeded(Blind), drawn((32, 32))
    explainer = gm.Explainer(module)
    assert explainer.layers(x).default.name == "block2"
    with pytest.warns(gm.CamWarning, match=r"'block2'.*'block1' is explained instead"):
        explanation = explainer(x, 3)
    assert explanation.layer == "block1"
    assert explanation.status == ("ok", "ok")
    expected = by_hand(module, "block1", x, 3, (4, 4))
    np.testing.assert_allclose(explanation.cam, expected, atol=1e-5 * expected.max())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explainer(x, 3).layer == "block1"  # said once
    with pytest.warns(gm.CamWarning, match="zero_gradient"):  # what is named, stays
        assert gm.explain(module, x, 3, layer="block2").layer == "block2"


def test_need_06_an_ambiguous_row_is_asked_for():
    module, x = seeded(TOKENS["deit"].build), drawn((32, 32))
    assert gm.explain(module, x, 3, grid=(2, 8)).cam.shape == (2, 2, 8)
    module.patches.prefix = torch.nn.Parameter(torch.randn(1, 20, 32))
    module.patches.positions = torch.nn.Parameter(torch.randn(1, 36, 32))
    with pytest.raises(LayerError, match=r"36 tokens.*32x32.*4x4.*grid=\(rows, columns\)"):
        gm.explain(module, x, 3)
    assert gm.explain(module, x, 3, grid=(4, 4)).cam.shape == (2, 4, 4)


def test_a_model_of_sequences_is_not_folded():
    class Sequences(Encoder):
        def forward(self, x):
            return self.head(self.layers(x.transpose(1, 2)).mean(1))

    module = seeded(lambda: Sequences(batch_first=True, norm_first=True))
    x = np.random.default_rng(0).normal(size=(2, 32, 16)).astype(np.float32)
    explanation = gm.explain(module, x, 3, layer="layers.1")
    assert explanation.cam.shape == (2, 16)


def test_windows_are_no_items():
    module, x = seeded(swin), drawn((64, 64))
    assert gm.explain(module, x, 3, layer="last").cam.shape == (2, 8, 8)
    with pytest.raises(LayerError, match=r"'last.attention.qkv' makes 8 items for 2 inputs"):
        gm.explain(module, x, 3, layer="last.attention.qkv")
