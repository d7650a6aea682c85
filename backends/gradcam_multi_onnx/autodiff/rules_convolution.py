"""Convolutions in one to three dimensions."""

from gradcam_multi_onnx.autodiff import phases, windows
from gradcam_multi_onnx.autodiff.registry import ZERO, Answer, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.autodiff.windows import Axis

_ATTRIBUTES = (*windows.ATTRIBUTES, "group")


@vjp("Conv", attributes=_ATTRIBUTES)
def _conv(n: Site, g: Value) -> Answers:
    dx: Answer = ZERO
    dw: Answer = ZERO
    if 1 in n.wanted:
        dw = windows.correlate_windows(
            n.x, g, windows.windows_of(n), n.attribute("group", 1), n.input(1)
        )
    if 0 in n.wanted:
        weight, group = n.input(1), n.attribute("group", 1)
        n.extents(weight, range(weight.rank))
        axes = windows.windows_of(n)
        apart = phases.convolved_back(g, weight, axes, group, n.x)
        dx = windows.scatter_windows(g, weight, axes, group, n.x) if apart is None else apart
    db = n.b.reshape(n.b.reduce(g, [0, *range(2, g.rank)]), g.shape[1:2])
    return (dx, dw, db)[: len(n.node.input)]


@vjp("ConvTranspose", attributes=(*_ATTRIBUTES, "output_padding", "output_shape"))
def _conv_transpose(n: Site, g: Value) -> Answers:
    """Convolve with the weight as it is: (C, M/group, *kernel) is a convolution's (out, in)."""
    dx: Answer = ZERO
    dw: Answer = ZERO
    axes = _transposed_windows(n)
    if 1 in n.wanted:  # the same, with result and input in each other's place
        dw = windows.correlate_windows(g, n.x, axes, n.attribute("group", 1), n.input(1))
    if 0 in n.wanted:
        pads = [a.before for a in axes] + [a.after for a in axes]
        if min(pads) < 0:
            n.refuse("it is cropped by negative padding")
        dx = n.b.op(
            "Conv", g, n.input(1), shape=n.x.shape, group=n.attribute("group", 1), pads=pads,
            dilations=[a.dilation for a in axes], strides=[a.stride for a in axes],
        )  # fmt: skip
    db = n.b.reshape(n.b.reduce(g, [0, *range(2, g.rank)]), g.shape[1:2])
    return (dx, dw, db)[: len(n.node.input)]


def _transposed_windows(n: Site) -> list[Axis]:
    kernel = windows.kernel_of(n)
    ones, zeros = [1] * len(kernel), [0] * len(kernel)
    strides, dilations = n.attribute("strides", ones), n.attribute("dilations", ones)
    more, pads = n.attribute("output_padding", zeros), n.attribute("pads", zeros + zeros)
    automatic, stated = n.attribute("auto_pad", "NOTSET"), n.attribute("output_shape")
    axes = []
    for place, (k, s, d, extra) in enumerate(zip(kernel, strides, dilations, more, strict=True)):
        if extra >= s:
            n.refuse("its output_padding is not smaller than its stride")
        before, after = pads[place], pads[place + len(kernel)]
        if stated is not None or automatic.startswith("SAME"):
            (extent,) = n.extents(n.x, [place + 2])
            wanted = stated[-len(kernel) :][place] if stated is not None else extent * s
            total = max(s * (extent - 1) + extra + (k - 1) * d + 1 - wanted, 0)
            less, rest = total // 2, total - total // 2
            before, after = (less, rest) if automatic == "SAME_UPPER" else (rest, less)
        elif automatic == "VALID":
            before = after = 0
        axes.append(Axis(k, s, d, before, after))
    return axes
