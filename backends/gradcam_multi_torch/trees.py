"""Tensors inside the tuples, dicts and ModelOutput-like objects that models take and return."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def children(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named parts of a container, in order; nothing for anything else."""
    if isinstance(tree, Mapping):
        yield from ((str(key), value) for key, value in tree.items())
    elif isinstance(tree, (tuple, list)):
        names = getattr(tree, "_fields", None) or [str(index) for index in range(len(tree))]
        yield from zip(names, tree, strict=True)
    elif is_dataclass(tree) and not isinstance(tree, type):
        yield from ((field.name, getattr(tree, field.name)) for field in fields(tree))


def tensors(tree: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor with its dotted path inside the tree; "" for a bare tensor."""
    if isinstance(tree, torch.Tensor):
        yield name, tree
        return
    for part, value in children(tree):
        yield from tensors(value, f"{name}.{part}" if name else part)


def floating(tree: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that a gradient can flow through."""
    return ((name, tensor) for name, tensor in tensors(tree) if tensor.is_floating_point())


def swap(tree: Any, index: int, new: torch.Tensor) -> Any:
    """Replace one tensor of a function's result: the result itself, or an item of its tuple."""
    if isinstance(tree, torch.Tensor):
        return new
    items = list(tree)
    items[index] = new
    return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)


def convert(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to every leaf of nested dicts, lists and tuples, keeping their types."""
    if isinstance(tree, dict):
        return {key: convert(value, change) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        items = [convert(value, change) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return change(tree)
