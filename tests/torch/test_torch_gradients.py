"""Activations and gradients against plain autograd, and the tensor behind a final activation."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures_torch import ARCHITECTURES, seeded, small_resnet
from gradcam_multi_torch.model import open_module
from torch import nn

from gradcam_multi.errors import LayerNotOnPathError, TargetError

# float32 sums in another order than the reference's: a few units in the last place of the largest.
ROUNDING = 1e-5


def images(count=2, side=64):
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


def reference(module, path, call, inputs, cotangent):
    """Record everything, keep a copy of the module's k-th result, differentiate."""
    kept, calls = [], []

    def hook(_module, _args, output):
        calls.append(output)
        if len(calls) == call:
            kept.append(output.clone())
            return kept[0].clone()
        return None

    handle = module.get_submodule(path).register_forward_hook(hook)
    inputs = torch.from_numpy(inputs).requires_grad_()
    output = module(inputs)
    handle.remove()
    (gradient,) = torch.autograd.grad(output, kept, torch.from_numpy(cotangent))
    return kept[0].detach().numpy(), gradient.numpy()


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "layer", "path", "call"),
    [
        ("resnet", "layer2.1", "layer2.1", 1),
        ("resnet", "layer2.1.relu#2", "layer2.1.relu", 2),
        ("resnet", "layer1.0.conv2", "layer1.0.conv2", 1),
        ("vgg", "features.11", "features.11", 1),
        ("vgg", "features.5", "features.5", 1),
        ("mobilenet", "features.4.2", "features.4.2", 1),
        ("mobilenet", "features.1", "features.1", 1),
        ("densenet", "features.norm5", "features.norm5", 1),
        ("densenet", "features.denseblock1", "features.denseblock1", 1),
        ("inception", "mixed2", "mixed2", 1),
        ("inception", "stem", "stem", 1),
        ("squeezenet", "features.12", "features.12", 1),
    ],
)
def test_against_plain_autograd(name, layer, path, call):
    inputs = images()
    module = ARCHITECTURES[name][0]()
    model = open_module(module)
    with model.trace(inputs, [layer]) as trace:
        cotangent = np.random.default_rng(1).normal(size=trace.logits["output"].shape)
        cotangent = cotangent.astype(np.float32)
        gradient = trace.vjp({"output": cotangent})[0]
        activation = trace.activations[0]
        with torch.no_grad():
            close(trace.outputs["output"], module(torch.from_numpy(inputs)).numpy())
    expected_activation, expected_gradient = reference(module, path, call, inputs, cotangent)
    close(activation, expected_activation)
    close(gradient, expected_gradient)
    assert np.abs(gradient).max() > 0


def test_functional_layer_against_the_formula():
    """After DenseNet's functional ReLU come a mean and a dense layer: dS/dA = W / cells."""
    module = ARCHITECTURES["densenet"][0]()
    with open_module(module).trace(images(), ["relu"]) as trace:
        cotangent = np.zeros((2, 10), np.float32)
        cotangent[0, 3] = cotangent[1, 7] = 1
        gradient = trace.vjp({"output": cotangent})[0]
        activation = trace.activations[0]
    weights = module.classifier.weight.detach().numpy()[[3, 7]] / 64
    close(gradient, np.broadcast_to(weights[:, :, None, None], gradient.shape))
    assert activation.min() == 0
    with torch.no_grad():
        close(activation, F.relu(module.features(torch.from_numpy(images()))).numpy())


def test_several_layers_and_several_products():
    inputs, names = images(), ["layer2", "conv1", "layer1.0.relu#2"]
    model = open_module(small_resnet())
    one, two = np.eye(10, dtype=np.float32)[[[1, 2], [3, 4]]]
    with model.trace(inputs, names) as trace:
        together = [trace.vjp({"output": c}) for c in (one, two, one + two)]
        shapes = [a.shape for a in trace.activations]
    assert shapes == [g.shape for g in together[0]]
    for position, name in enumerate(names):
        with model.trace(inputs, [name]) as trace:
            close(together[0][position], trace.vjp({"output": one})[0])
        close(together[2][position], together[0][position] + together[1][position])


class InPlaceResidual(nn.Module):
    """Pre-activation with an in-place ReLU: the skip reads the activated tensor too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        y = self.conv(self.relu(x))
        y += x
        return y.mean((2, 3))


def test_a_tensor_written_in_place_keeps_its_other_name():
    module, inputs = seeded(InPlaceResidual), images(1, 6)
    with open_module(module).trace(inputs, ["relu"]) as trace:
        cotangent = np.float32([[1, -2, 3, 0.5]])
        gradient = trace.vjp({"output": cotangent})[0]
        activation = trace.activations[0].copy()
    leaf = torch.from_numpy(activation).requires_grad_()
    score = ((module.conv(leaf) + leaf).mean((2, 3)) * torch.from_numpy(cotangent)).sum()
    close(gradient, torch.autograd.grad(score, leaf)[0].numpy())


class InPlaceAfter(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x)
        x -= 100.0
        x.clamp_(min=-99.9)
        return x.sum((2, 3))


def test_what_was_captured_is_not_touched_in_place():
    module, inputs = seeded(InPlaceAfter), images(1, 6)
    with open_module(module).trace(inputs, ["conv"]) as trace:
        trace.vjp({"output": np.ones((1, 4), np.float32)})
        activation = trace.activations[0]
        with torch.no_grad():
            close(activation, module.conv(torch.from_numpy(inputs)).numpy())


def head(kind):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 5)
            self.softmax = nn.Softmax(dim=-1)
            self.sequence = nn.Sequential(nn.Linear(5, 5), nn.LogSoftmax(dim=1))

        def forward(self, x):
            x = self.conv(x)
            z = self.fc(x.amax((2, 3)))
            return {
                "none": lambda: z,
                "module": lambda: self.softmax(z),
                "function": lambda: F.softmax(z, dim=1),
                "method": lambda: z.softmax(1),
                "log": lambda: torch.log_softmax(z, 1),
                "nested": lambda: self.sequence[1](z),
                "sigmoid": lambda: torch.sigmoid(z),
                "in place": lambda: z.sigmoid_(),
            }[kind]()

    return seeded(Model)


@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        ("none", None),
        ("module", "softmax"),
        ("function", "softmax"),
        ("method", "softmax"),
        ("log", "softmax"),
        ("nested", "softmax"),
        ("sigmoid", "sigmoid"),
        ("in place", "sigmoid"),
    ],
)
@pytest.mark.parametrize("layer", ["conv", "amax"])
def test_a_final_activation_is_stepped_behind(kind, activation, layer):
    inputs, cotangent = images(3, 8), np.eye(5, dtype=np.float32)[[1, 0, 4]]
    with open_module(head("none")).trace(inputs, [layer]) as plain:
        logits, expected = plain.logits["output"], plain.vjp({"output": cotangent})[0]
    module = head(kind)
    model = open_module(module)
    with model.trace(inputs, [layer]) as trace:
        close(trace.logits["output"], logits)
        close(trace.vjp({"output": cotangent})[0], expected)
        with torch.no_grad():
            close(trace.outputs["output"], module(torch.from_numpy(inputs)).numpy())
        close(trace.replay(layer, trace.activations[0])["output"], logits)
    assert model.outputs[0].activation == activation
    assert model.outputs[0].shape == (None, 5)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.left = nn.Conv2d(4, 5, 3)
        self.right = nn.Conv2d(4, 6, 3)

    def forward(self, x):
        x = self.stem(x)
        return {"a": self.left(x).mean((2, 3)), "b": torch.sigmoid(self.right(x).mean((2, 3)))}


def test_several_outputs():
    module, inputs = seeded(TwoHeads), images(2, 8)
    model = open_module(module)
    with model.trace(inputs, ["stem", "left"]) as trace:
        assert [s.name for s in model.outputs] == ["a", "b"]
        assert [s.activation for s in model.outputs] == [None, "sigmoid"]
        ones = {name: np.ones_like(z) for name, z in trace.logits.items()}
        stem, left = trace.vjp({"a": ones["a"]})
        both, again = trace.vjp(ones)
        close(left, again)
        assert np.abs(both - stem).max() > 1e-3
        with pytest.raises(LayerNotOnPathError, match="output 'b' does not depend on layer 'left'"):
            trace.vjp({"b": ones["b"]})
        with pytest.raises(LayerNotOnPathError, match="output none"):
            trace.vjp({})
        with pytest.raises(TargetError, match=r"no output 'c'; it has a, b"):
            trace.vjp({"c": ones["b"]})
        with pytest.raises(TargetError, match=r"shape \(2, 6\) was given for output 'a'"):
            trace.vjp({"a": ones["b"]})


def test_replay_changes_what_comes_after():
    module, inputs = small_resnet(), images(1)
    model = open_module(module)
    with model.trace(inputs, ["layer2"]) as trace:
        new = np.random.default_rng(2).uniform(size=(3, *trace.activations[0].shape[1:]))
        new = new.astype(np.float32)
        outputs = trace.replay("layer2.1", new)["output"]
    pooled = torch.from_numpy(new.mean((2, 3)))
    with torch.no_grad():
        close(outputs, module.fc(pooled).numpy())
