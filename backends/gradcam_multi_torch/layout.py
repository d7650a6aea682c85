"""Where a tensor's channels are, followed from operation to operation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from gradcam_multi_torch.roles import role

PERMUTES = frozenset("permute transpose swapaxes swapdims movedim moveaxis mT mH adjoint".split())
RESHAPES = frozenset(
    "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as unsafe_view".split()
)
# These say themselves that the channels come first, whatever was known before.
CHANNELS_FIRST = frozenset("batch_norm group_norm instance_norm local_response_norm".split())
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29)


@dataclass(frozen=True, slots=True)
class Channels:
    """The channel axis of a tensor, or the last shape that had one where a reshape split it."""

    axis: int | None = None
    last: tuple[tuple[int, ...], int] | None = None


def of_input(shape: Sequence[int]) -> Channels:
    """Take an input of rank 3 or more as channels first, as PyTorch's convolutions do."""
    return Channels(1 if len(shape) >= 3 else None)


def follow(
    name: str,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    source: tuple[tuple[int, ...], Channels],
    shape: tuple[int, ...],
) -> Channels:
    """Tell the channels of a result of `shape` from the operand's shape and channels."""
    before, channels = source
    rank = len(shape)
    kind = role(name)
    if name in PERMUTES and rank == len(before):
        return _permuted(function, args, kwargs, before, channels)
    if name in RESHAPES:
        return _reshaped(before, channels, shape)
    if rank < 3:
        return Channels()
    if kind in ("conv", "pool") or name in CHANNELS_FIRST:
        return Channels(1)
    if kind == "linear" or name == "embedding":
        return Channels(rank - 1)
    if channels.axis is None or rank == len(before):
        return channels
    extent = before[channels.axis]
    found = [axis for axis in range(1, rank) if shape[axis] == extent]
    return Channels(found[0] if len(found) == 1 else None)


def _permuted(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    before: tuple[int, ...],
    channels: Channels,
) -> Channels:
    # A permutation of the axes does not depend on their extents: a shape of distinct primes,
    # without storage, shows where each axis goes.
    if channels.axis is None or len(before) > len(PRIMES) or not args:
        return channels
    with torch._C.DisableTorchFunction():
        probe = torch.empty(PRIMES[: len(before)], device="meta")
        moved = function(probe, *args[1:], **kwargs)
    return Channels(tuple(moved.shape).index(PRIMES[channels.axis]))


def _reshaped(before: tuple[int, ...], channels: Channels, shape: tuple[int, ...]) -> Channels:
    if channels.axis is None:
        if channels.last is not None and channels.last[0] == shape:
            return Channels(channels.last[1])
        return channels
    # A reshape keeps an axis where its extent and the number of cells before it are kept.
    outer, extent = prod(before[: channels.axis]), before[channels.axis]
    for axis in range(1, len(shape)):
        if len(shape) >= 3 and shape[axis] == extent and prod(shape[:axis]) == outer:
            return Channels(axis)
    return Channels(None, (before, channels.axis))
