"""The biases of PyTorch's own modules."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from gradcam_multi.spec import Bias
from gradcam_multi_torch.recording import Operation


def biases_of(module: nn.Module, operations: Iterable[Operation]) -> dict[str, Bias]:
    """Return the bias of each operation that is a whole convolution, dense layer or batch norm.

    A normalisation by the batch's own statistics, for want of stored ones, adds no constant.
    """
    parts = dict(module.named_modules(remove_duplicate=False))
    found = {}
    with torch.inference_mode(False), torch.no_grad():
        for operation in operations:
            place = operation.place
            if place.function is None and place.given is None:
                values = _bias(parts.get(place.module))
                if values is not None:
                    found[operation.layer.name] = Bias(values.detach().float().cpu().numpy())
    return found


def _bias(part: nn.Module | None) -> torch.Tensor | None:
    if isinstance(part, (_ConvNd, nn.Linear)):
        bias: torch.Tensor | None = part.bias
        return bias
    if isinstance(part, _BatchNorm) and part.running_mean is not None:
        scale = torch.rsqrt(part.running_var.double() + part.eps)
        scale = scale if part.weight is None else scale * part.weight.double()
        shift: torch.Tensor = -part.running_mean.double() * scale
        return shift if part.bias is None else shift + part.bias.double()
    return None
