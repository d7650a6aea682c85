"""The sliding windows of convolutions and poolings, and the way back through them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.registry import FreeExtent
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Dim

ATTRIBUTES = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")


@dataclass(frozen=True, slots=True)
class Axis:
    """Windows along one spatial axis: tap i of window o lies at o*stride - before + i*dilation."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """Extent from the first tap to the last."""
        return (self.kernel - 1) * self.dilation + 1


def kernel_of(n: Site) -> list[int]:
    """Return the kernel's extents, from the attribute or the weight's shape."""
    stated = n.attribute("kernel_shape")
    if stated is not None:
        return [int(k) for k in stated]
    weight = n.input(1)
    return n.extents(weight, range(2, weight.rank))


def windows_of(n: Site) -> list[Axis]:
    """Return the windows of a convolution or pooling, auto_pad resolved."""
    kernel = kernel_of(n)
    ones = [1] * len(kernel)
    strides, dilations = n.attribute("strides", ones), n.attribute("dilations", ones)
    automatic = n.attribute("auto_pad", "NOTSET")
    pads = (
        n.attribute("pads", [0] * 2 * len(kernel))
        if automatic == "NOTSET"
        else [0] * 2 * len(kernel)
    )
    befores, afters = pads[: len(kernel)], pads[len(kernel) :]
    axes = [Axis(*each) for each in zip(kernel, strides, dilations, befores, afters, strict=True)]
    if not automatic.startswith("SAME"):
        return axes
    padded = []
    for place, axis in enumerate(axes):
        total = axis.reach - 1  # at stride 1 the input's extent does not matter
        if axis.stride > 1:
            (extent,) = n.extents(n.x, [place + 2])
            total = max((-(-extent // axis.stride) - 1) * axis.stride + axis.reach - extent, 0)
        less, more = total // 2, total - total // 2
        pad = (less, more) if automatic == "SAME_UPPER" else (more, less)
        padded.append(Axis(axis.kernel, axis.stride, axis.dilation, *pad))
    return padded


def scatter_windows(
    g: Value, weight: Value, axes: Sequence[Axis], group: int, like: Value
) -> Value:
    """Multiply by the transpose of a convolution: windows added up into `like`'s shape.

    `weight` is the convolution's own, (M, C/group, *kernel).
    """
    b = g.builder
    flippable = all(a.stride == 1 and a.before < a.reach and a.after < a.reach for a in axes)
    if flippable:
        return _by_flipped_convolution(b, g, weight, axes, group, like)
    apart = _one_stride_apart(b, g, weight, axes, group, like)
    if apart is not None:
        return apart
    return _by_transposed_convolution(b, g, weight, axes, group, like)


def _by_flipped_convolution(
    b: Builder, g: Value, weight: Value, axes: Sequence[Axis], group: int, like: Value
) -> Value:
    # At stride 1 a convolution does the same as a transposed one, which is up to 13 times slower.
    outputs, inputs, *kernel = weight.shape
    assert isinstance(outputs, int)
    assert isinstance(inputs, int)
    swapped = weight
    if group == 1:
        swapped = b.transpose(weight, [1, 0, *range(2, weight.rank)])
    elif inputs > 1 or outputs > group:  # depthwise ones have one in and one out already
        parts = b.reshape(weight, (group, outputs // group, inputs, *kernel))
        order = [0, 2, 1, *range(3, parts.rank)]
        swapped = b.reshape(b.transpose(parts, order), (group * inputs, outputs // group, *kernel))
    turned = [place + 2 for place, axis in enumerate(axes) if axis.kernel > 1]
    if turned:
        swapped = b.flip(swapped, turned)
    pads = [a.reach - 1 - a.before for a in axes] + [a.reach - 1 - a.after for a in axes]
    return b.op(
        "Conv", g, swapped, shape=like.shape, group=group, pads=pads,
        dilations=[a.dilation for a in axes], strides=[1] * len(axes),
    )  # fmt: skip


def _one_stride_apart(
    b: Builder, g: Value, weight: Value, axes: Sequence[Axis], group: int, like: Value
) -> Value | None:
    """Return the same by a convolution of stride 1 where that is faster and extents are known.

    Depthwise ones are 2 to 5 times faster with zeros put between g's cells first. Dense ones would
    multiply the zeros.
    """
    depthwise = group > 1 and weight.shape[:2] == (group, 1)
    spatial = list(zip(axes, like.shape[2:], g.shape[2:], strict=True))
    if not depthwise or not all(isinstance(n, int) and isinstance(m, int) for _, n, m in spatial):
        return None
    # As if the convolution had had stride 1 and some more padding behind.
    dense = [
        Axis(a.kernel, 1, a.dilation, a.before, int(m) * a.stride + a.reach - 1 - a.before - int(n))
        for a, n, m in spatial
    ]
    if any(a.before >= a.reach or not 0 <= a.after < a.reach for a in dense):
        return None
    strides = [axis.stride for axis in axes]
    first = np.zeros([1, *strides])
    first[(0, *(0 for _ in strides))] = 1
    spread = b.op(
        "ConvTranspose", g, b.constant(np.broadcast_to(first, (group, *first.shape)), g.dtype),
        shape=(*g.shape[:2], *(int(m) * a.stride for a, _, m in spatial)),
        group=group, strides=strides,
    )  # fmt: skip
    return _by_flipped_convolution(b, spread, weight, dense, group, like)


def _by_transposed_convolution(
    b: Builder, g: Value, weight: Value, axes: Sequence[Axis], group: int, like: Value
) -> Value:
    # `output_shape` is never used: it makes the runtime choose the pads anew, which shifts
    # gradients of asymmetric ones. A stride that does not divide leaves a remainder, which is
    # what output_padding is for.
    spatial = list(zip(axes, like.shape[2:], g.shape[2:], strict=True))
    befores = [axis.before for axis in axes]
    known = all(isinstance(n, int) and isinstance(m, int) for _, n, m in spatial)
    if known:
        excess = [a.stride * (int(m) - 1) + a.reach - a.before - int(n) for a, n, m in spatial]
        afters, more = [max(e, 0) for e in excess], [max(-e, 0) for e in excess]
        shape = like.shape
    else:  # make it long enough for every case, then cut
        afters, more = [0] * len(axes), [a.stride - 1 for a in axes]
        shape = (*like.shape[:2], *(b.fresh("extent") for _ in axes))
    spread = b.op(
        "ConvTranspose", g, weight, shape=shape, group=group, pads=[*befores, *afters],
        output_padding=more, dilations=[a.dilation for a in axes], strides=[a.stride for a in axes],
    )  # fmt: skip
    if known:
        return spread
    places = range(2, like.rank)
    stop = [b.extent(like, place) for place in places]
    return b.slice(spread, [0] * len(axes), stop, list(places), like.shape[2:])


def correlate_windows(
    x: Value, g: Value, axes: Sequence[Axis], group: int, weight: Value
) -> Value:  # fmt: skip
    """Return the gradient of a convolution's weight, (M, C/group, *kernel).

    It is itself a convolution, of the input with the cotangent: channels in the batch's place,
    strides and dilations swapped.
    """
    b = x.builder
    outputs, inputs, *kernel = weight.shape
    spatial = list(range(2, x.rank))
    left, right = b.transpose(x, [1, 0, *spatial]), b.transpose(g, [1, 0, *spatial])
    if group > 1:  # (C, N) -> (C/group, group * N)
        batch = x.shape[0]
        if not isinstance(batch, int):
            raise FreeExtent(f"the shape of {x.name!r} is free")
        parts = b.reshape(left, (group, inputs, batch, *x.shape[2:]), x)
        parts = b.transpose(parts, [1, 0, *range(2, parts.rank)])
        left = b.reshape(parts, (inputs, group * batch, *x.shape[2:]), x)
    longer = (inputs, outputs, *(b.fresh("extent") for _ in axes))
    found = b.op(
        "Conv", left, right, shape=longer, group=group,
        pads=[a.before for a in axes] + [a.after for a in axes],
        strides=[a.dilation for a in axes], dilations=[a.stride for a in axes],
    )  # fmt: skip
    # A stride that does not divide leaves taps behind the kernel's last.
    stop = [b.extent(weight, place) for place in spatial]
    found = b.slice(found, [0] * len(axes), stop, spatial, kernel)
    return b.transpose(found, [1, 0, *spatial])


def repeat_windows(g: Value, axes: Sequence[Axis], like: Value) -> Value | None:
    """Return g repeated over windows that tile `like` exactly, or None where they do not."""
    b = g.builder
    split: list[Dim] = [*g.shape[:2]]
    wide: list[Dim] = [*g.shape[:2]]
    for axis, n, m in zip(axes, like.shape[2:], g.shape[2:], strict=True):
        whole = isinstance(n, int) and isinstance(m, int) and n == m * axis.kernel
        apart = axis.stride == axis.kernel or m == 1
        if not (whole and apart and axis.dilation == 1 and axis.before == axis.after == 0):
            return None
        split += [m, 1]
        wide += [m, axis.kernel]
    apart_value = b.reshape(g, tuple(split))
    target = Value(b, g.name, g.dtype, tuple(wide))  # only its shape is read
    return b.reshape(b.expand(apart_value, target), like.shape, like)
