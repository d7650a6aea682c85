"""Gradients of inputs, and the guided rule, in the ways that PyTorch models have them."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import numpy as np
from guided_torch import RELU6, RELUS, Net, by_hand
from torch import nn
from torch.nn import functional as F

from gradcam_multi.errors import InputError, LayerNotOnPathError, UnsupportedError
from gradcam_multi.plugins import installed
from gradcam_multi.spec import InputName

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)
COTANGENT = RNG.normal(size=(5, 3)).astype(np.float32)
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}  # three small products; gradients are of order 10


def opened(model):
    return installed().open(model, "torch", trust=True)


def gradient(model, inputs, names, cotangent=COTANGENT, **options):
    with opened(model).trace(inputs, names, **options) as trace:
        return trace.vjp({next(iter(trace.logits)): cotangent})


@pytest.mark.parametrize("spelling", RELUS)
def test_every_spelling_of_relu_is_guided(spelling):
    net = Net(RELUS[spelling])
    (found,) = gradient(net, X, ["x"], relu="guided")
    np.testing.assert_allclose(found, by_hand(net, X, COTANGENT), **FLOAT32)
    x = torch.tensor(X, requires_grad=True)
    (plain,) = torch.autograd.grad(net(x), x, torch.tensor(COTANGENT))
    (again,) = gradient(net, X, ["x"])
    np.testing.assert_allclose(again, plain, **FLOAT32)
    assert np.abs(found - again).max() > 0.1


@pytest.mark.parametrize("spelling", RELU6)
def test_every_spelling_of_relu6_is_guided(spelling):
    net = Net(RELU6[spelling])
    (found,) = gradient(net, X, ["x"], relu="guided")
    np.testing.assert_allclose(found, by_hand(net, X, COTANGENT, cap=6), **FLOAT32)
    uncapped = by_hand(net, X, COTANGENT)
    assert np.abs(found - uncapped).max() > 0.1  # values above 6 there are


@pytest.mark.parametrize(
    "activation",
    [
        nn.SiLU(), nn.GELU(), nn.LeakyReLU(0.1), nn.PReLU(), nn.ELU(), nn.Hardswish(),
        nn.Softplus(),
        lambda x: x.clamp(min=0), lambda x: x.clamp(0, 1),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_other_activations_keep_their_rule(activation):
    class Mixed(Net):
        def forward(self, x):
            return self.third(F.relu(self.second(activation(self.first(x)))))

    net = Mixed(None)
    (found,) = gradient(net, X, ["x"], relu="guided")
    x = torch.tensor(X, requires_grad=True)
    hidden = net.second(activation(net.first(x)))
    g = torch.where(hidden > 0, (torch.tensor(COTANGENT) @ net.third.weight).clamp(min=0), 0)
    (expected,) = torch.autograd.grad(hidden, x, g)
    np.testing.assert_allclose(found, expected, **FLOAT32)
    with pytest.raises(UnsupportedError, match="the Net runs no ReLU"):
        gradient(Net(activation), X, ["x"], relu="guided")


def test_the_rule_is_not_applied_to_what_reaches_the_layer_itself():
    """The gradient with respect to a ReLU's result is the one behind it, negative parts too."""
    net = Net(nn.ReLU())
    found, _ = gradient(net, X, ["activation#2", "x"], relu="guided")
    np.testing.assert_allclose(found, COTANGENT @ net.third.weight.detach().numpy(), **FLOAT32)
    assert (found < 0).any()


@pytest.mark.parametrize("kind", ["scripted", "traced", "exported", "exported in place"])
def test_programs_are_guided_too(kind):
    net = Net(nn.ReLU(inplace="place" in kind)).eval()
    example = torch.tensor(X)
    if kind == "scripted":
        program = torch.jit.script(net)
    elif kind == "traced":
        program = torch.jit.trace(net, example)
    else:
        program = torch.export.export(net, (example,))
    model = opened(program)
    model.layers(X)
    with model.trace(X, [model.inputs[0].name], relu="guided") as trace:
        (found,) = trace.vjp({next(iter(trace.logits)): COTANGENT})
    np.testing.assert_allclose(found, by_hand(net, X, COTANGENT), **FLOAT32)


def test_a_compiled_part_is_guided():
    net = Net(nn.ReLU())
    expected = by_hand(net, X, COTANGENT)
    (found,) = gradient(torch.compile(net, backend="eager"), X, ["x"], relu="guided")
    np.testing.assert_allclose(found, expected, **FLOAT32)


def test_a_checkpointed_part_is_guided():
    from torch.utils.checkpoint import checkpoint

    relu = nn.ReLU()
    net = Net(lambda x: checkpoint(relu, x, use_reentrant=False))
    (found,) = gradient(net, X, ["x"], relu="guided")
    np.testing.assert_allclose(found, by_hand(net, X, COTANGENT), **FLOAT32)


def test_the_callers_own_gradients_stay_plain():
    """Inside of the guided trace's block, and while another trace of the same model is open."""
    net = Net(nn.ReLU())
    model = opened(net)
    x = torch.tensor(X, requires_grad=True)
    (expected,) = torch.autograd.grad(net(x), x, torch.tensor(COTANGENT))
    with model.trace(X, ["x"], relu="guided") as guided, model.trace(X, ["x"]) as plain:
        (inside,) = torch.autograd.grad(net(x), x, torch.tensor(COTANGENT))
        assert torch.equal(inside, expected)
        (own,) = plain.vjp({"output": COTANGENT})
        np.testing.assert_allclose(own, expected, **FLOAT32)
        (other,) = guided.vjp({"output": COTANGENT})
        np.testing.assert_allclose(other, by_hand(net, X, COTANGENT), **FLOAT32)


class Pair(nn.Module):
    """A picture and words, by name; the words choose rows of a table."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.table, self.image = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, image, words):
        return self.image(image) * self.table(words).mean(1)[:, :3]


def test_inputs_by_name_beside_integers():
    model, words = Pair(), np.array([[1, 2], [3, 4]])
    inputs = {"words": words, "image": X[:2]}
    with opened(model).trace(inputs, ["image"]) as trace:
        assert trace.activations[0].shape == (2, 3)  # the layer, which has that name too
    (found,) = gradient(model, inputs, [InputName("image")], COTANGENT[:2])
    weight = model.image.weight.detach().numpy()
    table = model.table(torch.tensor(words)).detach().numpy().mean(1)[:, :3]
    np.testing.assert_allclose(found, (COTANGENT[:2] * table) @ weight, **FLOAT32)
    with pytest.raises(
        InputError, match="input 'words' was asked for, but it holds int64"
    ) as refused:
        gradient(model, inputs, ["words"], COTANGENT[:2])
    assert "\n" not in str(refused.value)


def test_a_layer_and_the_input_of_its_name_in_one_trace():
    model, words = Pair(), np.array([[1, 2], [3, 4]])
    names = ["image", InputName("image")]
    with opened(model).trace((X[:2], words), names) as trace:
        np.testing.assert_array_equal(trace.activations[1], X[:2])
        to_layer, to_input = trace.vjp({"output": COTANGENT[:2]})
        np.testing.assert_allclose(
            to_input, to_layer @ model.image.weight.detach().numpy(), **FLOAT32
        )
        moved = trace.replay(InputName("image"), X[2:4])["output"]
    with opened(model).trace((X[2:4], words), []) as other:
        np.testing.assert_allclose(moved, other.logits["output"], **FLOAT32)


class Nested(nn.Module):
    def forward(self, batch, scale):
        return batch["pictures"][0].relu() * scale


def test_inputs_inside_of_containers():
    inputs = ({"pictures": [X[:, :3], X]}, X[:, :3])
    (found, scale) = gradient(Nested(), inputs, ["batch.pictures.0", "scale"])
    np.testing.assert_allclose(found, COTANGENT * X[:, :3] * (X[:, :3] > 0), **FLOAT32)
    np.testing.assert_allclose(scale, COTANGENT * np.maximum(X[:, :3], 0), **FLOAT32)
    with pytest.raises(LayerNotOnPathError, match=r"batch\.pictures\.1"):
        gradient(Nested(), inputs, ["batch.pictures.1"])


def test_the_model_may_write_into_its_input():
    class Writing(nn.Module):
        def forward(self, x):
            x.mul_(2)
            return x.relu_()[:, :3]

    given = X.copy()
    with opened(Writing()).trace(given, ["x"]) as trace:
        np.testing.assert_array_equal(trace.activations[0], X)
        (found,) = trace.vjp({"output": COTANGENT})
    np.testing.assert_array_equal(given, X)
    np.testing.assert_allclose(found[:, :3], 2 * COTANGENT * (X[:, :3] > 0), **FLOAT32)
    (guided,) = gradient(Writing(), given, ["x"], relu="guided")
    positive = np.maximum(COTANGENT, 0)
    np.testing.assert_allclose(guided[:, :3], 2 * positive * (X[:, :3] > 0), **FLOAT32)
