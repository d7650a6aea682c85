"""Operators that gather and scatter single elements or slices, by indices."""

import numpy as np
from onnx import TensorProto

from gradcam_multi_onnx.autodiff.registry import ZERO, Answer, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value, count

_DYNAMIC = "its {} is not known before it runs"


def add_slices(n: Site, g: Value, axis: int, indices: Value, like: Value) -> Value:
    """Return zeros like a value, to which g's slices along an axis are added at indices.

    `indices` is a vector; g's extent along the axis is the vector's.
    """
    order = [axis, *(place for place in range(like.rank) if place != axis)]
    moved = n.b.transpose(g, order)
    shape = n.b.vector([n.b.extent(like, place) for place in order])
    zeros = n.b.zeros(shape, g.dtype, *(like.shape[place] for place in order))
    column = n.b.op("Unsqueeze", indices, n.b.integers([1]), shape=(*indices.shape, 1))
    added = n.b.op("ScatterND", zeros, column, moved, shape=zeros.shape, reduction="add")
    return n.b.transpose(added, [int(place) for place in np.argsort(order)])


def _zeros_like(n: Site, value: Value, dtype: int) -> Value:
    return n.b.zeros(n.b.shape(value), dtype, *value.shape)


def _flat(n: Site, value: Value) -> Value:
    return n.b.op("Reshape", value, n.b.integers([-1]), shape=(count(value.shape) or "cells",))


def _long(n: Site, indices: Value) -> Value:
    return n.b.cast(indices, TensorProto.INT64)


@vjp("GatherElements", attributes=("axis",))
def _gather_elements(n: Site, g: Value) -> Answers:
    zeros, axis = _zeros_like(n, n.x, g.dtype), n.axis(0, n.x.rank)
    added = n.b.op(
        "ScatterElements", zeros, n.input(1), g, shape=n.x.shape, axis=axis, reduction="add"
    )
    return added, ZERO


@vjp("GatherND", attributes=("batch_dims",))
def _gather_nd(n: Site, g: Value) -> Answers:
    indices, batch = n.input(1), n.attribute("batch_dims", 0)
    if batch:  # the batch's own places become part of the indices
        shape = n.extents(indices, range(indices.rank))
        places = np.indices(shape[:batch])
        places = places.reshape(batch, *shape[:batch], *(1,) * (len(shape) - batch - 1))
        full = np.broadcast_to(places, (batch, *shape[:-1]))
        own = n.b.constant(np.moveaxis(full, 0, -1), TensorProto.INT64)
        joined = (*shape[:-1], batch + shape[-1])
        indices = n.b.op("Concat", own, _long(n, indices), shape=joined, axis=-1)
    zeros = _zeros_like(n, n.x, g.dtype)
    return n.b.op("ScatterND", zeros, indices, g, shape=n.x.shape, reduction="add"), ZERO


@vjp("ScatterElements", "Scatter", attributes=("axis", "reduction"))
def _scatter_elements(n: Site, g: Value) -> Answers:
    indices, updates, axis = n.input(1), n.input(2), n.axis(0, n.x.rank)

    def gathered(value: Value) -> Value:
        return n.b.op("GatherElements", value, indices, shape=updates.shape, axis=axis)

    def scattered(value: Value, new: Value, reduction: str) -> Value:
        return n.b.op(
            "ScatterElements", value, indices, new, shape=n.x.shape, axis=axis, reduction=reduction
        )

    return _scattering(n, g, gathered, scattered)


@vjp("ScatterND", attributes=("reduction",))
def _scatter_nd(n: Site, g: Value) -> Answers:
    indices, updates = n.input(1), n.input(2)

    def gathered(value: Value) -> Value:
        return n.b.op("GatherND", value, _long(n, indices), shape=updates.shape)

    def scattered(value: Value, new: Value, reduction: str) -> Value:
        return n.b.op("ScatterND", value, indices, new, shape=n.x.shape, reduction=reduction)

    return _scattering(n, g, gathered, scattered)


def _scattering(n: Site, g: Value, gathered, scattered) -> Answers:  # type: ignore[no-untyped-def]
    """Take the updates' share where they were written; extrema split it among equals."""
    reduction, updates = n.attribute("reduction", "none"), n.input(2)
    if reduction == "none":
        return scattered(g, _zeros_like(n, updates, g.dtype), "none"), ZERO, gathered(g)
    if reduction == "add":
        return g, ZERO, gathered(g)
    if reduction == "mul":
        others = scattered(_zeros_like(n, n.x, g.dtype) + 1.0, updates, "mul")
        _nonzero(n)
        return g * others, ZERO, gathered(g * n.y) / updates
    kept, chosen = n.b.equal(n.x, n.y), n.b.equal(updates, gathered(n.y))
    shared = g / n.b.map("Max", scattered(kept, chosen, "add"), 1.0)
    return shared * kept, ZERO, gathered(shared) * chosen


def _nonzero(n: Site) -> None:
    if 2 in n.wanted:
        n.refuse("it multiplies updates that depend on the layer")


@vjp("TopK", attributes=("axis", "k", "largest", "sorted"))
def _top_k(n: Site, g: Value) -> Answers:
    axis = n.axis(-1, n.x.rank)
    if len(n.node.output) < 2 or not n.node.output[1]:
        n.refuse("its second output is absent")
    zeros = _zeros_like(n, n.x, g.dtype)
    put = n.b.op("ScatterElements", zeros, n.result(1), g, shape=n.x.shape, axis=axis)
    return (put, *(ZERO for _ in n.node.input[1:]))


@vjp("Trilu", attributes=("upper",))
def _trilu(n: Site, g: Value) -> Answers:
    further = [n.input(1)] if n.has(1) else []
    kept = n.b.op("Trilu", g, *further, shape=g.shape, upper=n.attribute("upper", 1))
    return (kept, *(ZERO for _ in n.node.input[1:]))


@vjp("Compress", attributes=("axis",))
def _compress(n: Site, g: Value) -> Answers:
    whole = n.x
    if n.attribute("axis") is None:
        whole = _flat(n, n.x)
    axis = 0 if n.attribute("axis") is None else n.axis(0, n.x.rank)
    (extent,) = n.extents(whole, [axis])
    ramp = n.b.integers(range(extent))
    places = n.b.op("Compress", ramp, n.input(1), shape=(g.shape[axis],), axis=0)
    return n.b.reshape(add_slices(n, g, axis, places, whole), n.x.shape, n.x), ZERO


@vjp("ReverseSequence", attributes=("batch_axis", "time_axis"))
def _reverse_sequence(n: Site, g: Value) -> Answers:
    axes = {name: n.attribute(name) for name in ("batch_axis", "time_axis")}
    return n.b.op("ReverseSequence", g, n.input(1), shape=n.x.shape, **axes), ZERO


@vjp("MaxUnpool", attributes=("kernel_shape", "pads", "strides"))
def _max_unpool(n: Site, g: Value) -> Answers:
    if n.has(2):
        n.refuse("its output_shape moves the indices")
    taken: Answer = n.b.op("Gather", _flat(n, g), n.input(1), shape=n.x.shape, axis=0)
    return (taken, *(ZERO for _ in n.node.input[1:]))
