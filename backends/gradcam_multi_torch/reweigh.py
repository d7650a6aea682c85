"""A copy of a module with other weights."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from gradcam_multi.errors import UnsupportedError
from gradcam_multi_torch.model import unwrap


def reweigh(model: Any, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> nn.Module:
    """Copy a module and set the parameters of each of its modules to what `change` makes of them.

    `change` gets the module's name and the array. Buffers, such as running means, are kept. Raises
    UnsupportedError for what is no module, or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedError(
            f"a {type(model).__name__} cannot be copied with other weights: give the "
            "torch.nn.Module that it was made from"
        )
    try:
        twin = copy.deepcopy(unwrap(model))
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UnsupportedError(
            f"the {type(model).__name__} cannot be copied ({' '.join(str(error).split())}): give "
            "`randomise`, a function that builds another one"
        ) from error
    with torch.no_grad():
        for name, module in twin.named_modules():
            for parameter in module.parameters(recurse=False):
                if not parameter.is_floating_point():
                    continue
                values = parameter.detach().cpu()
                # NumPy has no bfloat16; float32 holds its values exactly.
                array = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
                # NumPy shares the parameter's memory: `change` gets a copy of its own.
                parameter.copy_(torch.from_numpy(change(name, array.copy())))
    return twin
