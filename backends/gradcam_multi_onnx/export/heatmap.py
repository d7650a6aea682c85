"""From scores to a heatmap, in the graph: class, cotangent, map, resize, scaling to [0, 1]."""

from collections.abc import Sequence
from math import prod

import numpy as np
from onnx import TensorProto

from gradcam_multi.errors import ExportError
from gradcam_multi.spec import Folding, TensorSpec
from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.export.maps import MAPS

_FLAT = float(8 * np.finfo(np.float32).eps)  # as the core: a spread of rounding is no map
_LOWEST = float(np.finfo(np.float32).min)


def flat_scores(b: Builder, logits: Value) -> Value:
    """Return the scores as (N, classes) float32. Raises ExportError where they are a map."""
    several = [n for n in logits.shape[1:] if n != 1]
    if len(several) > 1:
        raise ExportError(
            f"the output is {logits.shape}: a heatmap file needs (N, classes), one score a class; "
            'export kind "gradient"'
        )
    classes = several[0] if several else 1
    target = b.integers([-1, 1] if logits.rank == 1 else [0, -1])
    flat = b.cast(logits, TensorProto.FLOAT)
    return b.op("Reshape", flat, target, shape=(logits.shape[0], classes))


def chosen_class(b: Builder, scores: Value, asked: Value) -> Value:
    """Return (N,) int64: the class asked for, the top class where that is negative."""
    nan = b.map("IsNaN", scores, dtype=TensorProto.BOOL)
    sound = b.where(nan, _LOWEST, scores)
    top = b.write(
        "ArgMax", sound, results=[(TensorProto.INT64, scores.shape[:1])], axis=1, keepdims=0
    )[0]
    shape = b.write("Shape", top, results=[(TensorProto.INT64, (1,))])[0]
    each = b.op("Expand", asked, shape, shape=top.shape)
    return b.where(b.map("Less", each, 0, dtype=TensorProto.BOOL), top, each)


def one_hot(b: Builder, scores: Value, chosen: Value, logits: Value) -> Value:
    """Return the cotangent of the logits that makes their derivative that of the class's score."""
    depth = b.write("Shape", scores, results=[(TensorProto.INT64, (1,))], start=1, end=2)[0]
    values = b.constant([0.0, 1.0], TensorProto.FLOAT)
    hot = b.write(
        "OneHot", chosen, depth, values, results=[(TensorProto.FLOAT, scores.shape)], axis=1
    )[0]
    shape = b.write("Shape", logits, results=[(TensorProto.INT64, (logits.rank,))])[0]
    return b.op("Reshape", b.cast(hot, logits.dtype), shape, shape=logits.shape)


def channels_first(b: Builder, value: Value, batch: int, channel: int | None) -> Value:
    """Return (N, C, *grid) float32, given the batch and the channel axis."""
    order = list(range(value.rank))
    if channel is not None:
        order = [batch, channel, *(axis for axis in order if axis not in (batch, channel))]
    return b.cast(b.transpose(value, order), TensorProto.FLOAT)


def folded(b: Builder, value: Value, folding: Folding | None) -> Value:
    """Return tokens (N, C, T) as (N, C, *grid), the prefix cut off; other values as they are."""
    if folding is None:
        return value
    cells = prod(folding.grid)
    if folding.prefix:
        value = b.slice(value, [folding.prefix], [folding.prefix + cells], [2], [cells])
    target = b.integers([0, 0, *folding.grid])
    return b.op("Reshape", value, target, shape=(*value.shape[:2], *folding.grid))


def finite_items(b: Builder, values: Sequence[Value], count: int | str) -> Value:
    """Return (N, 1, 1) bool: whether an item's values are free of NaN and infinity."""
    total: Value | None = None
    for value in values:
        # NaN and infinity times zero are NaN, and NaN stays in any sum.
        axes = b.integers(range(1, value.rank))
        shape = (count,)
        nothing = b.op("ReduceSum", value * 0.0, axes, shape=shape, keepdims=0)
        nothing = b.cast(nothing, TensorProto.FLOAT)
        total = nothing if total is None else total + nothing
    assert total is not None
    bad = b.map("IsNaN", total, dtype=TensorProto.BOOL)
    finite = b.map("Not", bad, dtype=TensorProto.BOOL)
    return b.op("Reshape", finite, b.integers([-1, 1, 1]), shape=(count, 1, 1))


def raw_map(
    b: Builder, method: str, activations: Value, gradients: Value, inputs: Sequence[Value]
) -> Value:
    """Return the (N, 1, *grid) map, negative evidence cut, zero where anything is not finite."""
    count, channels = activations.shape[:2]
    flat = b.integers([0, 0, -1])
    a, g = (
        b.op("Reshape", value, flat, shape=(count, channels, "cells"))
        for value in (activations, gradients)
    )
    signed = MAPS[method](b, a, g)
    finite = finite_items(b, [a, g, signed, *inputs], count)
    clean = b.where(finite, b.map("Relu", signed), 0.0)
    grid = activations.shape[2:]
    lead = b.vector([b.extent(activations, 0), 1])
    extents = b.vector([b.extent(activations, axis) for axis in range(2, activations.rank)])
    target = b.op("Concat", lead, extents, shape=(activations.rank,), axis=0)
    return b.op("Reshape", clean, target, shape=(count, 1, *grid))


def resized(b: Builder, cam: Value, size: Value, extents: tuple[int | str, ...]) -> Value:
    """Resize (N, 1, *grid) to (N, 1, *size) by half-pixel-centred linear interpolation.

    `size` is an int64 vector of the spatial extents.
    """
    count, line = cam.shape[0], cam.rank == 3
    lead = b.vector([b.extent(cam, 0), 1])
    if line:  # runtimes resize pictures and volumes; a line is a picture of height one
        cam = b.op("Unsqueeze", cam, b.integers([2]), shape=(count, 1, 1, cam.shape[2]))
        lead = b.op("Concat", lead, b.integers([1]), shape=(3,), axis=0)
    sizes = b.op("Concat", lead, size, shape=(cam.rank,), axis=0)
    shape = (count, 1, 1, *extents) if line else (count, 1, *extents)
    out = b.op(
        "Resize", cam, None, None, sizes, shape=shape, mode="linear",
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    return b.op("Squeeze", out, b.integers([2]), shape=(count, 1, *extents)) if line else out


def rescaled(b: Builder, cam: Value) -> Value:
    """Scale each item of (N, 1, *size) to [0, 1] and drop the axis of one; flat ones to zero."""
    axes = b.integers(range(1, cam.rank))
    shape = (cam.shape[0], *(1,) * (cam.rank - 1))
    low = b.op("ReduceMin", cam, axes, shape=shape, keepdims=1)
    high = b.op("ReduceMax", cam, axes, shape=shape, keepdims=1)
    spread = high - low
    largest = b.map("Max", b.map("Abs", low), b.map("Abs", high)) * _FLAT
    flat = b.map("LessOrEqual", spread, largest, dtype=TensorProto.BOOL)
    scaled = b.where(flat, 0.0, (cam - low) / b.where(flat, 1.0, spread))
    return b.op("Squeeze", scaled, b.integers([1]), shape=(cam.shape[0], *cam.shape[2:]))


def picture_axes(spec: TensorSpec) -> range:
    """Return the spatial axes of an input."""
    rank = len(spec.shape)
    return range(1, rank - 1) if spec.layout == "channels_last" else range(2, rank)
