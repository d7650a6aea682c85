"""Operators that select, pad or resample along axes."""

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from gradcam_multi_onnx.autodiff.registry import ZERO, Answer, Answers, vjp
from gradcam_multi_onnx.autodiff.rules_scatter import add_slices
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value, count
from gradcam_multi_onnx.graph import Dim

_ALL = 2**31 - 1  # what exporters write for "to the end"


def _nothing_else(n: Site) -> Answers:
    return tuple(ZERO for _ in n.node.input[1:])


def _put_back(n: Site, g: Value, axis: int, places: NDArray[np.int64]) -> Value:
    """Return g with its slices along an axis at other places, each once, zeros between."""
    (extent,) = n.extents(n.x, [axis])
    if len(places) and np.all(np.diff(places) == 1):
        return n.b.pad(g, axis, int(places[0]), extent - int(places[-1]) - 1, extent)
    source = np.full(extent, len(places))  # the slice of zeros behind the last
    source[places] = np.arange(len(places))
    longer = n.b.pad(g, axis, 0, 1, len(places) + 1)
    shape = tuple(extent if place == axis else d for place, d in enumerate(g.shape))
    return n.b.op("Gather", longer, n.b.integers(source.tolist()), shape=shape, axis=axis)


@vjp("Slice", attributes=("axes", "ends", "starts"), quantised=True)
def _slice(n: Site, g: Value) -> Answers:
    if n.opset >= 10 and any(n.has(i) and not n.graph.constant(n.node.input[i]) for i in (1, 2)):
        return (_unslice_dynamic(n, g), *_nothing_else(n))
    starts, ends = n.setting("starts", 1, 10), n.setting("ends", 2, 10)
    axes, steps = n.setting("axes", 3, 10), n.setting("steps", 4, 10)
    if starts is None or ends is None:
        n.refuse("its bounds are absent")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        g = _unslice(n, g, axis % g.rank, start, end, step)
    return (g, *_nothing_else(n))


def _one(n: Site, place: int, entry: int) -> Value:
    """Return one number of an input as a vector of one."""
    numbers = n.b.cast(n.input(place), TensorProto.INT64)
    return n.b.slice(numbers, [entry], [entry + 1], [0], [1])


def _unslice_dynamic(n: Site, g: Value) -> Value:
    """Cut the axes' own positions in the same way, and add the slices up there."""
    axes, steps = n.setting("axes", 3, 10), n.setting("steps", 4, 10)
    (many,) = n.extents(n.input(1), [0])
    axes = list(range(many)) if axes is None else axes
    for entry, axis in enumerate(axis % g.rank for axis in axes):
        (extent,) = n.extents(n.x, [axis])
        step = n.b.integers([1 if steps is None else steps[entry]])
        bounds = _one(n, 1, entry), _one(n, 2, entry)
        places = n.b.op(
            "Slice", n.b.integers(range(extent)), *bounds, n.b.integers([0]), step,
            shape=(g.shape[axis],),
        )  # fmt: skip
        g = _added(n, g, axis, places)
    return g


def _added(n: Site, g: Value, axis: int, places: Value, extra: int = 0) -> Value:
    shape = tuple(n.x.shape[place] if place == axis else d for place, d in enumerate(g.shape))
    if extra:
        (extent,) = n.extents(n.x, [axis])
        shape = (*shape[:axis], extent + extra, *shape[axis + 1 :])
    like = Value(n.b, g.name, g.dtype, shape)  # only its shape is read
    return add_slices(n, g, axis, places, like)


def _unslice(n: Site, g: Value, axis: int, start: int, end: int, step: int) -> Value:
    if step == 1 and start == 0 and end >= _ALL:
        return g
    # Shape inference hands a free extent on as if nothing had been cut, so it must be known.
    (extent,) = n.extents(n.x, [axis])
    if step > 0:
        places = np.arange(extent)[slice(start, end, step)]
    else:
        # NumPy reads an end below -extent as its own beginning only where it is absent.
        first = min(start + extent if start < 0 else start, extent - 1)
        last = max(end + extent if end < 0 else end, -1)
        places = np.arange(first, last, step)
    return _put_back(n, g, axis, places)


@vjp("Gather", attributes=("axis",), quantised=True)
def _gather(n: Site, g: Value) -> Answers:
    """Add the slices up where they were taken from, by a matrix of zeros and ones."""
    indices = n.constant(1)
    axis = n.axis(0, n.x.rank)
    if indices is None:
        many: Dim = count(n.input(1).shape) or n.b.fresh("extent")
        cells = (*n.x.shape[:axis], many, *n.x.shape[axis + 1 :])
        flat = n.b.op("Reshape", n.input(1), n.b.integers([-1]), shape=(many,))
        return add_slices(n, n.b.reshape(g, cells, n.x), axis, flat, n.x), ZERO
    (extent,) = n.extents(n.x, [axis])
    taken = indices.reshape(-1) % extent
    shape: tuple[Dim, ...] = (*n.x.shape[:axis], len(taken), *n.x.shape[axis + 1 :])
    parts = n.b.reshape(g, shape, n.x)
    if len(np.unique(taken)) == len(taken):
        return _put_back(n, parts, axis, taken), ZERO
    return n.b.along(parts, axis, np.eye(extent)[:, taken]), ZERO


@vjp("Pad", attributes=("mode", "pads", "value"), quantised=True)
def _pad(n: Site, g: Value) -> Answers:
    axes = n.setting("axes", 3, 18)
    if n.opset >= 11 and not n.graph.constant(n.node.input[1]):
        return _unpad_dynamic(n, g, axes), *_pad_value(n, g)
    pads = n.setting("pads", 1, 11)
    if pads is None:
        n.refuse("its pads are absent")
    axes = list(range(n.x.rank)) if axes is None else [axis % n.x.rank for axis in axes]
    mode, whole = n.attribute("mode", "constant"), g
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if before or after:
            g = _unpad(n, g, axis, before, after, mode)
    return (g, *_pad_value(n, whole, g))


def _pad_value(n: Site, whole: Value, inside: Value | None = None) -> Answers:
    """Return what the other inputs get: the value all that fell on the padding."""
    rest: list[Answer] = [ZERO for _ in n.node.input[1:]]
    if 2 in n.wanted:
        if inside is None:
            n.refuse("its value and its pads depend on the model's input")
        total = n.b.reduce(whole, range(whole.rank))
        outside = total - n.b.reduce(inside, range(inside.rank))
        rest[1] = n.b.reshape(outside, n.input(2).shape)
    return rest


def _unpad_dynamic(n: Site, g: Value, axes: list[int] | None) -> Value:
    """Pad the axes' own positions in the same way, and add the slices up there."""
    mode = n.attribute("mode", "constant")
    if mode == "wrap":
        n.refuse("its pads depend on the model's input")
    axes = list(range(n.x.rank)) if axes is None else [axis % n.x.rank for axis in axes]
    for entry, axis in enumerate(axes):
        (extent,) = n.extents(n.x, [axis])
        amounts = [_one(n, 1, entry), _one(n, 1, entry + len(axes))]
        pads = n.b.op("Concat", *amounts, shape=(2,), axis=0)
        beyond = n.b.constant(extent, TensorProto.INT64)  # where the padding's share is dropped
        places = n.b.op(
            "Pad", n.b.integers(range(extent)), pads, beyond, shape=(g.shape[axis],), mode=mode
        )
        g = _added(n, g, axis, places, 1)
        g = n.b.slice(g, [0], [extent], [axis], [extent])
    return g


def _unpad(n: Site, g: Value, axis: int, before: int, after: int, mode: str) -> Value:
    (extent,) = n.extents(n.x, [axis])
    cropped = np.arange(extent)[max(-before, 0) : extent - max(-after, 0)]
    widths = max(before, 0), max(after, 0)
    if mode == "constant":
        places = np.pad(cropped, widths, constant_values=-1)
    else:
        known = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}
        if mode not in known:
            n.refuse(f"its mode {mode!r} is not understood")
        places = np.pad(cropped, widths, mode=known[mode])  # type: ignore[call-overload]
    if mode == "constant" and min(before, after) >= 0:
        return n.b.slice(g, [before], [before + extent], [axis], [extent])
    matrix = np.arange(extent)[:, None] == places[None, :]
    return n.b.along(g, axis, matrix)
