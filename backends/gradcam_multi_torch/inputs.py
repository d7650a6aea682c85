"""Inputs as a module takes them."""

import inspect
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from gradcam_multi.errors import InputError
from gradcam_multi.spec import Inputs, TensorSpec
from gradcam_multi_torch import trees

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def prepare(module: nn.Module, inputs: Inputs) -> Arguments:
    """Turn inputs into positional and keyword arguments, on the module's device.

    An array or list is one argument, a tuple positional ones, a dict keyword ones (or one
    argument, where `forward` has no parameters of those names). NumPy floats take the dtype of
    the first floating parameter; tensors keep theirs. Everything is copied, so that an in-place
    operation of the model cannot reach the caller's arrays. Raises InputError.
    """
    device, dtype = _placement(module)

    def change(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.detach().to(device).clone()
        if isinstance(leaf, (np.ndarray, np.generic)):
            array = np.array(leaf, order="C")
            if array.dtype.kind not in "biuf":
                raise InputError(
                    f"an input array has dtype {array.dtype}; give numbers, as floats or integers"
                )
            tensor = torch.from_numpy(array)
            return tensor.to(device, dtype if tensor.is_floating_point() else None)
        return leaf

    if inputs is None:
        raise InputError("PyTorch needs inputs to tell its layers; give an array, batch axis first")
    converted = trees.convert(inputs, change)
    if not any(True for _ in trees.tensors(converted)):
        raise InputError(
            f"the inputs, a {type(inputs).__name__}, hold no array; give NumPy arrays or tensors"
        )
    if isinstance(converted, dict) and _takes(module, converted):
        return _arranged(module, converted)
    return (converted if isinstance(inputs, tuple) else (converted,)), {}


def first_items(arguments: Arguments, count: int) -> Arguments:
    """Copy the first items of a batch; tensors of another leading extent stay whole."""
    batch = batch_size(arguments)

    def change(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return (leaf[:count] if leaf.ndim and leaf.shape[0] == batch else leaf).clone()

    args, kwargs = trees.convert(arguments, change)
    return args, kwargs


def spread(arguments: Arguments, count: int) -> Arguments:
    """Repeat a batch of one `count` times; leave any other batch as it is."""
    if batch_size(arguments) != 1 or count == 1:
        return arguments

    def change(leaf: Any) -> Any:
        single = isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == 1
        return leaf.expand(count, *leaf.shape[1:]).clone() if single else leaf

    args, kwargs = trees.convert(arguments, change)
    return args, kwargs


def batch_size(arguments: Arguments) -> int:
    """Take the leading extent of the first tensor that has one."""
    for _, tensor in trees.tensors(arguments):
        if tensor.ndim:
            return int(tensor.shape[0])
    return 1


def describe(module: nn.Module, arguments: Arguments) -> tuple[TensorSpec, ...]:
    """Describe the tensors of a run; extents of a grid and the batch count as free."""
    return tuple(
        TensorSpec(
            name=name,
            shape=_free(tensor),
            dtype=str(tensor.dtype).removeprefix("torch."),
            layout="channels_first" if tensor.ndim >= 3 and tensor.is_floating_point() else None,
        )
        for name, tensor in named_tensors(module, arguments).items()
    )


def named_tensors(module: nn.Module, arguments: Arguments) -> dict[str, torch.Tensor]:
    """Return the tensors of a run by the names of the parameters, dotted inside of containers."""
    args, kwargs = arguments
    names = iter(parameters(module))
    named: dict[str, Any] = {next(names, str(n)): value for n, value in enumerate(args)}
    return dict(trees.tensors({**named, **kwargs}))


def exchanged(
    module: nn.Module, arguments: Arguments, new: Mapping[str, Callable[[torch.Tensor], Any]]
) -> Arguments:
    """Put what functions make of some tensors, by name, in the place of these."""
    if not new:
        return arguments
    named = named_tensors(module, arguments)
    made = {id(named[name]): make(named[name]) for name, make in new.items()}
    args, kwargs = trees.convert(arguments, lambda leaf: made.get(id(leaf), leaf))
    return args, kwargs


def _placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    device: torch.device | None = None
    for tensor in chain(module.parameters(), module.buffers()):
        device = device or tensor.device
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return device or torch.device("cpu"), torch.get_default_dtype()


def parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """Return what a module's `forward` takes, by name."""
    return dict(inspect.signature(module.forward).parameters)


def _takes(module: nn.Module, named: dict[Any, Any]) -> bool:
    known = parameters(module)
    free = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in known.values())
    return all(isinstance(name, str) and (free or name in known) for name in named)


def _arranged(module: nn.Module, named: dict[str, Any]) -> Arguments:
    """Sort named arguments into positional and keyword ones, where the module insists on it."""
    spec = getattr(module, "_in_spec", None)
    if not isinstance(module, torch.fx.GraphModule) or spec is None:
        return (), named
    # An exported program takes what it was exported with by position by position only.
    keywords = spec.children_specs[1].context
    first = [name for name in parameters(module) if name in named and name not in keywords]
    return tuple(named[name] for name in first), {n: named[n] for n in keywords if n in named}


def _free(tensor: torch.Tensor) -> tuple[int | None, ...]:
    free: list[int | None] = [None] * tensor.ndim
    if tensor.ndim > 1 and tensor.is_floating_point():
        free[1] = int(tensor.shape[1])
    return tuple(free)
