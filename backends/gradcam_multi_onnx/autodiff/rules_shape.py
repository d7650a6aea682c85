"""Operators that move values without changing them."""

import numpy as np

from gradcam_multi_onnx.autodiff.registry import ZERO, Answer, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Dim


@vjp("Reshape", "Flatten", "Squeeze", "Unsqueeze", attributes=("allowzero", "axes", "axis"),
     quantised=True)  # fmt: skip
def _reshape(n: Site, g: Value) -> Answers:
    return (n.b.reshape(g, n.x.shape, n.x), *(ZERO for _ in n.node.input[1:]))


@vjp("Transpose", attributes=("perm",), quantised=True)
def _transpose(n: Site, g: Value) -> Answers:
    order = n.attribute("perm", list(range(n.x.rank))[::-1])
    return (n.b.transpose(g, [int(place) for place in np.argsort(order)]),)


@vjp("Expand", quantised=True)
def _expand(n: Site, g: Value) -> Answers:
    return g, ZERO


@vjp("Concat", attributes=("axis",), quantised=True)
def _concat(n: Site, g: Value) -> Answers:
    axis = n.axis(1, g.rank)
    answers: list[Answer] = []
    start: Dim | Value = 0
    for place in range(len(n.node.input)):
        part = n.input(place)
        stop = _sum(n, start, n.b.extent(part, axis))
        if place in n.wanted:
            answers.append(n.b.slice(g, [start], [stop], [axis], [part.shape[axis]]))
        else:
            answers.append(ZERO)
        start = stop
    return tuple(answers)


def _sum(n: Site, one: Dim | Value, other: Dim | Value) -> Dim | Value:
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    return n.b.vector([one]) + n.b.vector([other])


@vjp("Split", attributes=("axis", "split", "num_outputs"), several=True, quantised=True)
def _split(n: Site, _: Value) -> Answers:
    axis = n.axis(0, n.x.rank)
    (whole,) = n.extents(n.x, [axis])
    parts = []
    start = 0
    for place, g in enumerate(n.cotangents):
        (extent,) = n.extents(n.result(place), [axis])
        if g is not None:
            parts.append(n.b.pad(g, axis, start, whole - start - extent, whole))
        start += extent
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return (total, *(ZERO for _ in n.node.input[1:]))


@vjp("DepthToSpace", attributes=("blocksize", "mode"), quantised=True)
def _depth_to_space(n: Site, g: Value) -> Answers:
    if n.attribute("mode", "DCR") == "DCR":
        return (n.b.op("SpaceToDepth", g, shape=n.x.shape, blocksize=n.attribute("blocksize")),)
    size = n.attribute("blocksize")
    channels, height, width = n.extents(n.x, [1, 2, 3])
    batch, outer = n.x.shape[0], channels // size**2
    parts = n.b.reshape(g, (batch, outer, height, size, width, size))
    return (n.b.reshape(n.b.transpose(parts, [0, 1, 3, 5, 2, 4]), n.x.shape, n.x),)


@vjp("SpaceToDepth", attributes=("blocksize", "mode"), quantised=True)
def _space_to_depth(n: Site, g: Value) -> Answers:
    size, mode = n.attribute("blocksize"), n.attribute("mode", "DCR")
    return (n.b.op("DepthToSpace", g, shape=n.x.shape, blocksize=size, mode=mode),)


@vjp("Tile", quantised=True)
def _tile(n: Site, g: Value) -> Answers:
    """Sum over the copies, which come before the extents that they repeat."""
    repeats = n.constant(1)
    if repeats is None:
        n.refuse("its repeats depend on the model's input")
    shape: list[Dim] = []
    for axis, times in enumerate(repeats.tolist()):
        shape += [int(times), n.x.shape[axis]]
    parts = n.b.reshape(g, tuple(shape), n.x)
    return n.b.reshape(n.b.reduce(parts, range(0, len(shape), 2)), n.x.shape, n.x), ZERO
