"""Networks that spell ReLU in every way that PyTorch has, and their gradients written by hand."""

import torch
from torch import nn
from torch.nn import functional as F


def in_a_view(x):
    """In place, in a part of a tensor that the model holds under another name."""
    whole = x * 1
    whole.view(-1).relu_()
    return whole


RELUS = {
    "module": nn.ReLU(),
    "module in place": nn.Sequential(nn.Identity(), nn.ReLU(inplace=True)),
    "function": F.relu,
    "function in place": lambda x: F.relu(x, True),
    "torch.relu": torch.relu,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "view in place": in_a_view,
    "aten": torch.ops.aten.relu.default,
}
RELU6 = {
    "module": nn.ReLU6(),
    "module in place": nn.ReLU6(inplace=True),
    "function": F.relu6,
    "hardtanh": nn.Hardtanh(0, 6),
    "hardtanh in place": lambda x: F.hardtanh(x, 0, 6, True),
    "clamp": lambda x: x.clamp(0, 6),
}


class Net(nn.Module):
    """Linear, activation, linear, activation, linear: (N, 4) to (N, 3)."""

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.activation = activation
        with torch.no_grad():
            self.first.weight.mul_(8)  # some values above 6
            self.second.weight.mul_(4)

    def forward(self, x):
        x = self.activation(self.first(x))
        return self.third(self.activation(self.second(x)))


def by_hand(net, x, cotangent, cap=float("inf")):
    """The guided gradient of a `Net` with respect to its input, chained in float64."""
    weights = [
        (layer.weight.detach().double(), layer.bias.detach().double())
        for layer in (net.first, net.second, net.third)
    ]
    h, masks = torch.as_tensor(x, dtype=torch.float64), []
    for w, b in weights[:2]:
        z = h @ w.T + b
        masks.append((z > 0) & (z < cap))
        h = z.clamp(0, cap)
    g = torch.as_tensor(cotangent, dtype=torch.float64) @ weights[2][0]
    for (w, _), mask in zip(weights[1::-1], masks[::-1], strict=True):
        g = torch.where(mask & (g > 0), g, 0) @ w
    assert not all(mask.all() for mask in masks)
    return g.numpy()
