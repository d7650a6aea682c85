"""The way back through windows that are some cells apart, one phase of the stride after another.

Phase (a, b) of x holds every stride-th cell from (a, b) on, (N, C, H/stride, W/stride): a tap of
all windows is one phase, moved. So max pooling goes back by comparisons of whole arrays, where ONNX
Runtime's indices compare one number at a time and ScatterElements adds up on one thread, in all
twice the time; and a dense convolution by convolutions of stride 1.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from math import prod
from operator import add
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.autodiff.windows import Axis
from gradcam_multi_onnx.graph import Shape

_TAPS = 9  # each costs a comparison and three more nodes; indices cost the same for all


class Tap(NamedTuple):
    """A tap of windows along one axis: cell o + moved of a phase, for window o."""

    place: int
    phase: int
    moved: int


def pooled_back(x: Value, y: Value, g: Value, axes: Sequence[Axis]) -> Value | None:
    """Give each cotangent to the first maximum of its window in x, of which y are the maxima.

    Returns None where the windows have no phases, have too many taps, or cotangents are infinite.
    """
    extents, stride = _extents(x, g, axes), axes[0].stride
    if not extents or prod(axis.kernel for axis in axes) > _TAPS:
        return None
    if x.dtype != TensorProto.FLOAT or not g.builder.finite.holds(g.name):
        return None
    phases = _split(x, stride, (x.shape[0], *extents))
    parts: dict[tuple[int, ...], list[Value]] = {}
    rest, taps = g, list(product(*map(_taps, axes)))
    for tap in taps:
        phase, moved = tuple(each.phase for each in tap), [each.moved for each in tap]
        if tap != taps[-1]:
            cell = _moved(phases[phase], [-m for m in moved], y.shape, -np.inf)
            share = rest * g.builder.equal(cell, y)
            rest = rest - share
        else:  # what none before has taken
            share = rest
        back = _moved(share, moved, (x.shape[0], *extents), 0)
        parts.setdefault(phase, []).append(back)
    return _joined(g.builder, [reduce(add, parts[phase]) for phase in phases], x, stride)


def convolved_back(
    g: Value, weight: Value, axes: Sequence[Axis], group: int, like: Value
) -> Value | None:
    """Multiply by the transpose of a convolution, (M, C, *kernel) `weight`, into `like`'s shape.

    Returns None where its windows have no phases, or it has groups.
    """
    extents, stride = _extents(like, g, axes), axes[0].stride
    if not extents or group > 1 or extents[1:] != g.shape[2:]:
        return None
    along = [[_of_phase(axis, phase) for phase in range(stride)] for axis in axes]
    phases = list(product(*along))
    # Cell i of a phase is a tap of window i - moved: the higher the tap, the earlier the window.
    before = [[taps[-1].moved for taps in phase] for phase in phases]
    after = [[-taps[0].moved for taps in phase] for phase in phases]
    if min(min(each) for each in (*before, *after)) < 0:
        return None
    b = g.builder
    swapped, parts = b.transpose(weight, [1, 0, 2, 3]), []
    for phase, *pads in zip(phases, before, after, strict=True):
        last, first = [taps[-1].place for taps in phase], [np.iinfo(np.int64).min + 1] * 2
        kernel = b.slice(swapped, last, first, [2, 3], [len(taps) for taps in phase], -stride)
        shape = (g.shape[0], *extents)
        parts.append(b.op("Conv", g, kernel, shape=shape, pads=[*pads[0], *pads[1]]))
    return _joined(b, parts, like, stride)


def _extents(x: Value, g: Value, axes: Sequence[Axis]) -> tuple[int, ...]:
    """Channels and spatial extents of a phase of x; () where it has none.

    It has where two axes have one stride that divides the extents, all of them known.
    """
    stride = axes[0].stride
    known = [n for n in (*x.shape[1:], *g.shape[2:]) if isinstance(n, int)]
    suited = (
        len(axes) == 2
        and len(known) == 5
        and stride > 1
        and all(
            axis.stride == stride <= axis.kernel and axis.dilation == 1 and n % stride == 0
            for axis, n in zip(axes, known[1:3], strict=True)
        )
    )
    return (known[0], *(n // stride for n in known[1:3])) if suited else ()


def _taps(axis: Axis) -> list[Tap]:
    places = range(axis.kernel)
    return [Tap(place, *divmod(place - axis.before, axis.stride)[::-1]) for place in places]


def _of_phase(axis: Axis, phase: int) -> list[Tap]:
    return [tap for tap in _taps(axis) if tap.phase == phase]


def _split(x: Value, stride: int, shape: Shape) -> dict[tuple[int, ...], Value]:
    places = list(product(range(stride), repeat=2))
    whole: Shape = (shape[0], len(places) * int(shape[1]), *shape[2:])
    apart = x.builder.op("SpaceToDepth", x, shape=whole, blocksize=stride)
    results = [(x.dtype, shape)] * len(places)
    phases = x.builder.write("Split", apart, results=results, axis=1, num_outputs=len(places))
    return dict(zip(places, phases, strict=True))


def _moved(value: Value, by: Sequence[int], shape: Shape, filling: float) -> Value:
    """Move cells to later places; cut or fill what is beside the shape."""
    ends = [
        int(n) - int(m) - b for n, m, b in zip(shape[2:], value.shape[2:], by, strict=True)
    ]  # fmt: skip
    if not any((*by, *ends)):
        return value
    b = value.builder
    amounts = b.integers([0, 0, *by, 0, 0, *ends])
    return b.op("Pad", value, amounts, b.constant(filling, value.dtype), shape=shape)


def _joined(b: Builder, phases: Sequence[Value], x: Value, stride: int) -> Value:
    # DepthToSpace moves one number at a time: the transposed convolution takes a third.
    first, channels = phases[0], int(x.shape[1])
    tall: Shape = (*first.shape[:2], len(phases) * int(first.shape[2]), first.shape[3])
    beside = b.op("Concat", *phases, shape=tall, axis=2)
    apart = b.reshape(beside, (first.shape[0], channels * len(phases), *first.shape[2:]))
    place = np.eye(len(phases)).reshape(-1, 1, stride, stride)
    weight = b.constant(np.tile(place, (channels, 1, 1, 1)), x.dtype)
    return b.op(
        "ConvTranspose", apart, weight, shape=x.shape, group=channels, strides=[stride, stride]
    )
