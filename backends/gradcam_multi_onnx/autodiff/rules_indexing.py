"""Operators that select, pad or resample along axes."""

import numpy as np
from numpy.typing import NDArray

from gradcam_multi_onnx.autodiff.registry import ZERO, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Dim

_ALL = 2**31 - 1  # what exporters write for "to the end"


def _nothing_else(n: Site) -> Answers:
    return tuple(ZERO for _ in n.node.input[1:])


def _put_back(n: Site, g: Value, axis: int, places: NDArray[np.int64]) -> Value:
    """Return g with its slices along an axis at other places, each once, zeros between."""
    (extent,) = n.extents(n.x, [axis])
    source = np.full(extent, len(places))  # the slice of zeros behind the last
    source[places] = np.arange(len(places))
    longer = n.b.pad(g, axis, 0, 1, len(places) + 1)
    shape = tuple(extent if place == axis else d for place, d in enumerate(g.shape))
    return n.b.op("Gather", longer, n.b.integers(source.tolist()), shape=shape, axis=axis)


@vjp("Slice", attributes=("axes", "ends", "starts"))
def _slice(n: Site, g: Value) -> Answers:
    starts, ends = n.setting("starts", 1, 10), n.setting("ends", 2, 10)
    axes, steps = n.setting("axes", 3, 10), n.setting("steps", 4, 10)
    if starts is None or ends is None:
        n.refuse("its bounds are absent")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        g = _unslice(n, g, axis % g.rank, start, end, step)
    return (g, *_nothing_else(n))


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
    if step == 1:
        before = int(places[0]) if len(places) else extent
        return n.b.pad(g, axis, before, extent - before - len(places), extent)
    return _put_back(n, g, axis, places)


@vjp("Gather", attributes=("axis",))
def _gather(n: Site, g: Value) -> Answers:
    """Add the slices up where they were taken from, by a matrix of zeros and ones."""
    indices = n.constant(1)
    if indices is None:
        n.refuse("its indices depend on the model's input")
    axis = n.axis(0, n.x.rank)
    (extent,) = n.extents(n.x, [axis])
    flat = indices.reshape(-1) % extent
    shape: tuple[Dim, ...] = (*n.x.shape[:axis], len(flat), *n.x.shape[axis + 1 :])
    parts = n.b.reshape(g, shape, n.x)
    if len(np.unique(flat)) == len(flat):
        return _put_back(n, parts, axis, flat), ZERO
    return n.b.along(parts, axis, np.eye(extent)[:, flat]), ZERO


@vjp("Pad", attributes=("mode", "pads", "value"))
def _pad(n: Site, g: Value) -> Answers:
    pads, axes = n.setting("pads", 1, 11), n.setting("axes", 3, 18)
    if pads is None:
        n.refuse("its pads are absent")
    axes = list(range(n.x.rank)) if axes is None else [axis % n.x.rank for axis in axes]
    mode = n.attribute("mode", "constant")
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if before or after:
            g = _unpad(n, g, axis, before, after, mode)
    return (g, *_nothing_else(n))


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
