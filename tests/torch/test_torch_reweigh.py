"""Copies of modules with other weights: which arrays are asked for, and what is left alone."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch import nn

from gradcam_multi import metrics
from gradcam_multi.errors import UnsupportedError
from gradcam_multi.plugins import installed


def module():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5, bias=False)),
    )


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_what_is_asked_for_and_what_stays():
    model = module().train()
    model[0].weight.requires_grad_(False)
    before, asked = state(model), []

    def change(layer, array):
        asked.append((layer, array.shape))
        array *= 2  # in place, to see that it is a copy
        return array

    copy = installed().reweigh(model, change)
    assert asked == [
        ("0", (4, 3, 3, 3)), ("0", (4,)), ("1", (4,)), ("1", (4,)), ("3.2", (5, 4)),
    ]  # fmt: skip
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        factor = 1 if "running" in name or "tracked" in name else 2
        assert torch.equal(copy.state_dict()[name], factor * before[name])
    assert copy.training
    assert not copy[0].weight.requires_grad
    assert metrics.weighted_layers(model, np.zeros((1, 3, 8, 8), np.float32)) == ("3.2", "1", "0")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype):
    model = module().to(dtype)
    copy = metrics.shuffled(model, ["0"])
    own, other = model[0].weight, copy[0].weight
    assert other.dtype == dtype
    assert not torch.equal(own, other)
    assert torch.equal(own.flatten().sort().values, other.flatten().sort().values)


def test_what_cannot_be_copied():
    class Locked(nn.Module):
        def __deepcopy__(self, memo):
            raise TypeError("it holds a lock")

    with pytest.raises(UnsupportedError, match=r"cannot be copied \(it holds a lock\)"):
        metrics.shuffled(Locked(), [])
    program = torch.export.export(module().eval(), (torch.zeros(2, 3, 8, 8),))
    with pytest.raises(UnsupportedError, match="give the torch"):
        metrics.shuffled(program, ["0"])
