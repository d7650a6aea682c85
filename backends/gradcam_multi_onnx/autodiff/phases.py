"""Max pooling's way back by comparisons of whole arrays, cell by cell of the stride.

ONNX Runtime's max pooling with indices compares one number at a time, and ScatterElements adds up
on one thread: together a fifth of ResNet-18's gradient, and twice what this takes.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from operator import add

import numpy as np
from onnx import TensorProto

from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.autodiff.windows import Axis
from gradcam_multi_onnx.graph import Shape

_TAPS = 9  # each costs a comparison and three more nodes; indices cost the same for all

Tap = tuple[tuple[int, ...], tuple[int, ...]]
"""The phase in which it lies, and by how many cells it lies behind the window's own."""


def pooled_back(x: Value, y: Value, g: Value, axes: Sequence[Axis]) -> Value | None:
    """Give each cotangent to the first maximum of its window in x, of which y are the maxima.

    Phase (a, b) of x holds every stride-th cell from (a, b) on, (N, C, H/stride, W/stride): a tap
    of all windows is one phase, moved. Returns None where the windows do not suit: not two axes of
    one stride that divides the extents, too many taps, unknown extents, or infinite cotangents.
    """
    stride = axes[0].stride
    extents, cells = x.shape[1:], g.shape[2:]
    known = [n for n in (*extents, *cells) if isinstance(n, int)]
    if len(axes) != 2 or len(known) < 5 or x.dtype != TensorProto.FLOAT:
        return None
    suited = stride > 1 and all(
        axis.stride == stride <= axis.kernel and axis.dilation == 1 and n % stride == 0
        for axis, n in zip(axes, known[1:3], strict=True)
    )
    if not suited or axes[0].kernel * axes[1].kernel > _TAPS or not g.builder.finite.holds(g.name):
        return None
    channels, small = known[0], tuple(n // stride for n in known[1:3])
    phases = _split(x, stride, (x.shape[0], channels, *small))
    parts: dict[tuple[int, ...], list[Value]] = {}
    rest, taps = g, _taps(axes)
    for place, (phase, moved) in enumerate(taps):
        if place < len(taps) - 1:
            cell = _moved(phases[phase], [-m for m in moved], y.shape, -np.inf)
            share = rest * g.builder.equal(cell, y)
            rest = rest - share
        else:  # what none before has taken
            share = rest
        back = _moved(share, moved, (x.shape[0], channels, *small), 0)
        parts.setdefault(phase, []).append(back)
    return _joined(g.builder, [reduce(add, parts[phase]) for phase in phases], x, stride)


def _taps(axes: Sequence[Axis]) -> list[Tap]:
    each = [[divmod(tap - a.before, a.stride) for tap in range(a.kernel)] for a in axes]
    return [(tuple(p for _, p in tap), tuple(m for m, _ in tap)) for tap in product(*each)]


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
