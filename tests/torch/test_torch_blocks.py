"""LeGrad in PyTorch, against autograd with every attention's weights written out."""

import numpy as np
import pytest
import torch
from architectures_attention import coatnet, swin, vit, vit_pooled
from architectures_tokens import TOKENS, Encoder
from architectures_torch import seeded
from legrad_by_torch import by_autograd
from legrad_references import slow_map
from torch import nn
from torch.nn import functional

import gradcam_multi as gm

NETWORKS = {
    "class token": (vit, (64, 64), (1, (4, 4))),
    "mean, fused": (vit_pooled, (64, 64), (0, (4, 4))),
    "two tokens, fused": (TOKENS["deit"].build, (32, 32), (2, (4, 4))),
    "not square": (TOKENS["deit_wide"].build, (24, 48), (2, (3, 6))),
    "nn.MultiheadAttention": (TOKENS["encoder"].build, (32, 32), (1, (4, 4))),
    "normalised behind": (TOKENS["encoder_after"].build, (32, 32), (1, (4, 4))),
    "stacked": (TOKENS["encoder_stacked"].build, (32, 32), (1, (4, 4))),
}
# Sums of products in float32 against float64; what is positive or not is decided per weight, and a
# weight whose sign rounding decides is as small as the rounding.
TOLERANCE = 1e-5


def drawn(size, count=2):
    return np.random.default_rng(0).normal(size=(count, 3, *size)).astype(np.float32)


def close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_maps(name):
    build, size, fold = NETWORKS[name]
    module, x = seeded(build).eval(), drawn(size)
    found = gm.explain(module, x, 3, method="legrad")
    gradients = by_autograd(module, x, 3)
    assert found.status == ("ok", "ok")
    assert found.cost == 2 + len(gradients)
    for i in range(2):
        close(found.cam[i], slow_map([g[i] for g in gradients], *fold))


def test_the_sequence_in_front_changes_nothing():
    x = drawn((32, 32), 3)
    first = gm.explain(seeded(TOKENS["encoder"].build), x, [1, 2, 3], method="legrad")
    behind = seeded(TOKENS["encoder_sequence_first"].build)
    found = gm.explain(behind, x, [1, 2, 3], method="legrad")
    close(found.cam, first.cam)


@pytest.mark.parametrize("name", ["class token", "nn.MultiheadAttention"])
def test_a_batch_is_its_items_and_the_model_is_left_as_found(name):
    build, size, _ = NETWORKS[name]
    module, x = seeded(build).train(), drawn(size, 3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    explainer = gm.Explainer(module, method="legrad")
    whole = explainer(x, [1, 2, 3])
    for i in range(3):
        close(whole.cam[i], explainer(x[i : i + 1], i + 1).cam[0])
    with torch.inference_mode():
        close(explainer(x, [1, 2, 3]).cam, whole.cam)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    close(explainer(x, [1, 2, 3]).cam, whole.cam)
    assert module.training
    assert all(p.grad is None for p in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


class Own(nn.Module):
    """A block written by hand: in-place additions, one of the ways to write an attention."""

    def __init__(self, way):
        super().__init__()
        self.way, self.heads = way, 2
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out, self.mlp = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x):
        n, t, c = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, -1)
        q, k, v = (y.transpose(1, 2) for y in qkv.unbind(2))
        if self.way == "bmm":  # items and heads in one axis
            q, k, v = (y.reshape(n * self.heads, t, -1) for y in (q, k, v))
            a = torch.bmm(q, k.transpose(1, 2)).div_(4).softmax(-1)
            y = torch.bmm(a, v).reshape(n, self.heads, t, -1).transpose(1, 2)
        elif self.way == "heads first":
            q, k, v = (y.transpose(0, 1).reshape(n * self.heads, t, -1) for y in (q, k, v))
            a = torch.bmm(q, k.transpose(1, 2)).div_(4).softmax(-1)
            y = torch.bmm(a, v).reshape(self.heads, n, t, -1).permute(1, 2, 0, 3)
        elif self.way == "einsum":
            a = torch.einsum("nhqd,nhkd->nhqk", q, k).div(4).softmax(-1)
            y = torch.einsum("nhkd,nhqk->nqhd", v, a)
        elif self.way == "masked":
            mask = torch.ones(t, t, dtype=torch.bool).tril()
            y = functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2)
        elif self.way == "linear":  # no weights of one token for another
            y = (q.softmax(-1) @ (k.softmax(-2).transpose(2, 3) @ v)).transpose(1, 2)
        elif self.way == "sigmoid":
            y = ((q @ k.transpose(2, 3)).sigmoid() @ v).transpose(1, 2)
        else:
            y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        attended = self.out(y.reshape(n, t, c))
        attended += x
        x = self.mlp(self.norm2(attended))
        x += attended
        return x


def written(way):
    def build():
        module = Encoder(batch_first=True, norm_first=True)
        module.layers = nn.Sequential(Own(way), Own(way), Own(way))
        return module

    return seeded(build)


@pytest.mark.parametrize("way", ["bmm", "einsum"])
def test_ways_to_write_an_attention(way):
    x = drawn((32, 32))
    expected = gm.explain(written("fused"), x, 3, method="legrad")
    close(gm.explain(written(way), x, 3, method="legrad").cam, expected.cam)


def test_a_masked_attention_has_gradients_at_its_mask_too():
    """The gradient of a weight that a mask holds at 0 is one, as in the paper's program."""
    found = gm.explain(written("masked"), drawn((32, 32)), 3, method="legrad")
    assert found.status == ("ok", "ok")


REFUSED = {
    "windows": (swin, (64, 64), r"several shapes, \(None, 16, 16, 16\) and \(None, 8, 8, 32\)"),
    "class attention": (TOKENS["cait"].build, (32, 32), "attend to the same tokens"),
    "attention pooling": (TOKENS["attention_pool"].build, (32, 32), "no block of attention"),
    "linear": (lambda: written("linear"), (32, 32), "rows add up to 1|tokens attend to"),
    "sigmoid": (lambda: written("sigmoid"), (32, 32), "rows add up to 1"),
    "heads before items": (lambda: written("heads first"), (32, 32), "batch_size=1"),
    "no attention": (lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)
    ), (32, 32), "no block of attention"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name):
    build, size, said = REFUSED[name]
    with pytest.raises(gm.UnsupportedError, match=said) as error:
        gm.explain(seeded(build), drawn(size), 3, method="legrad")
    assert "\n" not in str(error.value)


def test_heads_before_items_are_explained_one_by_one():
    x = drawn((32, 32), 3)
    expected = gm.explain(written("fused"), x, 3, method="legrad")
    found = gm.explain(written("heads first"), x, 3, method="legrad", batch_size=1)
    close(found.cam, expected.cam)


def test_a_convolution_before_the_block():
    found = gm.explain(seeded(coatnet), drawn((64, 64)), 3, method="legrad")
    assert (found.cam.shape, found.status) == ((2, 8, 8), ("ok", "ok"))


def test_half_precision():
    module, x = seeded(vit_pooled), drawn((64, 64))
    expected = gm.explain(module, x, 3, method="legrad")
    found = gm.explain(module.bfloat16(), x, 3, method="legrad")
    # 8 bits, through three blocks; measured 0.02.
    close(found.cam, expected.cam, 0.1)


def test_the_forward_passes_are_counted():
    module, x = seeded(vit), drawn((64, 64))
    explainer = gm.Explainer(module, method="legrad")
    explainer(x, 3)  # the first records the layers, once for all
    runs = []
    module.patches.register_forward_hook(lambda *_: runs.append(1))
    assert explainer(x, 3).cost == len(runs) == 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_programs():
    module, x = seeded(vit_pooled).eval(), drawn((64, 64))
    expected = gm.explain(module, x, 3, method="legrad")
    program = torch.export.export(module, (torch.from_numpy(x),))
    close(gm.explain(program, x, 3, method="legrad").cam, expected.cam)
    traced = torch.jit.trace(module, torch.from_numpy(x))
    close(gm.explain(traced, x, 3, method="legrad").cam, expected.cam)
