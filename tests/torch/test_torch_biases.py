"""Biases of PyTorch's modules, against autograd's own gradient of each."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import gradcam_multi as gm


class Net(nn.Module):
    """Shared and nested modules, ReLU in place, and a head that the score ignores."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.shared = nn.Conv2d(6, 6, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(inplace=True))
        self.plain = nn.BatchNorm2d(6, affine=False)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.dense = nn.Linear(4, 7)
        self.scores = nn.Linear(7, 5)
        self.aside = nn.Linear(4, 5)
        for norm in (self.norm, self.plain):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        x = self.relu(self.norm(self.first(x)))
        x = self.relu(self.shared(self.relu(self.shared(x))))
        x = self.plain(self.block(x) + x)
        x = self.relu(self.up(x)).mean((2, 3))
        self.aside(x)
        return self.scores(self.relu(self.dense(x)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


def test_each_bias_is_the_parameter_at_every_call(net, inputs):
    model = gm.Explainer(net).model
    biases = model.biases(inputs)
    norm = net.norm.bias - net.norm.running_mean * net.norm.weight / torch.sqrt(
        net.norm.running_var + net.norm.eps
    )
    expected = {
        "norm": norm, "shared": net.shared.bias, "shared#2": net.shared.bias,
        "block.0": net.block[0].bias, "up": net.up.bias, "dense": net.dense.bias,
        "plain": -net.plain.running_mean / torch.sqrt(net.plain.running_var + net.plain.eps),
        "scores": net.scores.bias, "aside": net.aside.bias,
    }  # fmt: skip
    assert set(biases) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(biases[name].values, values.detach(), rtol=1e-5, atol=1e-6)


def test_gradients_at_the_layers_sum_to_those_of_the_parameters(net, inputs):
    model = gm.Explainer(net).model
    model.layers(inputs)
    names = ["norm", "shared", "shared#2", "block.0", "up", "dense", "scores"]
    cotangent = np.eye(5, dtype=np.float32)[[1, 3]]
    with model.trace(inputs, names) as trace:
        gradients = trace.vjp({"output": cotangent})
    found = {n: g.sum((0, *range(2, g.ndim))) for n, g in zip(names, gradients, strict=True)}
    net(torch.from_numpy(inputs)).backward(torch.from_numpy(cotangent))
    found["shared"] = found["shared"] + found.pop("shared#2")
    for name, summed in found.items():
        own = net.get_submodule(name).bias.grad
        np.testing.assert_allclose(summed, own, rtol=0, atol=2e-5 * own.abs().max())


def test_the_network_is_complete_and_left_as_found(net, inputs):
    net.train()
    found = gm.explain(net, inputs, [1, 3], method="fullgrad")
    assert found.status == ("ok", "ok")
    assert net.training
    assert all(p.grad is None for p in net.parameters())


class Functional(nn.Module):
    """A bias that belongs to no module of PyTorch's."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.shift = nn.Parameter(torch.randn(4))
        self.scores = nn.Linear(4, 3)

    def forward(self, x):
        x = functional.relu(functional.conv2d(x, self.kernel, self.shift))
        return self.scores(x.mean((2, 3)))


def test_biases_that_are_not_found_are_noticed(inputs):
    torch.manual_seed(0)
    with pytest.raises(gm.UnsupportedError, match="biases of 1 layers make up"):
        gm.explain(Functional().eval(), inputs, 1, method="fullgrad")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_programs_are_refused_by_name(net, inputs):
    example = torch.from_numpy(inputs)
    for program in (torch.jit.trace(net, example), torch.export.export(net, (example,))):
        with pytest.raises(gm.UnsupportedError, match="no modules to take them from") as error:
            gm.explain(program, inputs, 1, method="fullgrad")
        assert "\n" not in str(error.value)
