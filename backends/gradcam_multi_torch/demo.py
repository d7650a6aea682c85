"""The demo networks as PyTorch modules."""

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from gradcam_multi.demo.networks import DemoLayer, DemoNetwork


def build(network: "DemoNetwork") -> nn.Sequential:
    """Build a described network, its layers under their own names, in eval mode."""
    module = nn.Sequential()
    for layer in network.layers:
        module.add_module(layer.name, _part(network, layer))
    return module.eval()


def _part(network: "DemoNetwork", layer: "DemoLayer") -> nn.Module:
    if layer.kind in ("conv", "dense"):
        return _weighted(network, layer)
    if layer.kind == "relu":
        return nn.ReLU(inplace=True)  # as torchvision's are: the adapter has to bear it
    if layer.kind == "maxpool":
        return nn.MaxPool2d(2)
    return GlobalAverage() if layer.kind == "gap" else nn.Softmax(dim=1)


def _weighted(network: "DemoNetwork", layer: "DemoLayer") -> nn.Module:
    weight = torch.tensor(network.weights[f"{layer.name}.weight"])
    bias = torch.tensor(network.weights[f"{layer.name}.bias"])
    outputs, inputs = weight.shape[:2]
    dense = layer.kind == "dense"
    part = nn.Linear(inputs, outputs) if dense else nn.Conv2d(inputs, outputs, 3, padding=1)
    part.load_state_dict({"weight": weight, "bias": bias})
    return part


class GlobalAverage(nn.Module):  # type: ignore[misc]  # types are checked without torch
    """The mean over space, (N, C, H, W) to (N, C)."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Average over the last two axes."""
        return maps.mean(dim=(2, 3))
