"""Where a tensor's channels and its batch are, followed from operation to operation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """The channel axis of a tensor, or the last shape that had one where a reshape split it.

    `batch` is the batch axis: token models may keep the sequence in front of it. It is None where
    a reshape joined it with another.
    """

    axis: int | None = None
    last: tuple[tuple[int, ...], int] | None = None
    batch: int | None = 0


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
    last: tuple[int, Channels] | None = None,
) -> Channels:
    """Tell the channels of a result of `shape` from the operand's shape and channels.

    `last` are the rank and the channels of the last operand that is a result, for products of two.
    """
    before, channels = source
    rank = len(shape)
    kind = role(name, 1 if last is None else 2)
    if name in PERMUTES and rank == len(before):
        return _permuted(function, args, kwargs, before, channels)
    if name in RESHAPES:
        return _reshaped(before, channels, shape)
    if rank < 3:
        return Channels()
    if kind in ("conv", "pool") or name in CHANNELS_FIRST:
        return Channels(1)
    # With the rank, the batch's place is kept; else only if nothing was in front of it.
    batch = channels.batch if rank == len(before) or channels.batch == 0 else None
    if kind == "attention" and name != "multi_head_attention_forward" and last is not None:
        # Values have their channels last, and so has what they are summed to; but keys, turned
        # around, give weights, which have none.
        values = last[0] == rank and last[1].axis == rank - 1
        return Channels(rank - 1, batch=batch) if values else Channels(batch=batch)
    if kind in ("linear", "attention") or name in ("embedding", "layer_norm", "rms_norm"):
        return Channels(rank - 1, batch=batch)
    if channels.axis is None or rank == len(before):
        return replace(channels, batch=batch)
    extent = before[channels.axis]
    found = [axis for axis in range(1, rank) if shape[axis] == extent]
    return Channels(found[0] if len(found) == 1 and batch == 0 else None, batch=batch)


def _permuted(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    before: tuple[int, ...],
    channels: Channels,
) -> Channels:
    # A permutation of the axes does not depend on their extents: a shape of distinct primes,
    # without storage, shows where each axis goes.
    if len(before) > len(PRIMES) or not args:
        return channels
    with torch._C.DisableTorchFunction():
        probe = torch.empty(PRIMES[: len(before)], device="meta")
        moved = function(probe, *args[1:], **kwargs)
    axis, batch = (
        None if place is None else tuple(moved.shape).index(PRIMES[place])
        for place in (channels.axis, channels.batch)
    )
    return Channels(axis, channels.last if axis is None else None, batch)


def _reshaped(before: tuple[int, ...], channels: Channels, shape: tuple[int, ...]) -> Channels:
    batch = channels.batch
    if batch is not None and before[: batch + 1] != shape[: batch + 1]:
        batch = None
    if channels.axis is None:
        if channels.last is not None and channels.last[0] == shape:
            return Channels(channels.last[1], batch=batch)
        return replace(channels, batch=batch)
    # A reshape keeps an axis where its extent and the number of cells before it are kept.
    outer, extent = prod(before[: channels.axis]), before[channels.axis]
    for axis in range(1, len(shape)):
        if len(shape) >= 3 and shape[axis] == extent and prod(shape[:axis]) == outer:
            return Channels(axis, batch=batch)
    return Channels(None, (before, channels.axis), batch)
