"""What ONNX's operators over windows and grids compute, written with PyTorch's."""

from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rule_check import Case
from torch import Tensor

CONV = (F.conv1d, F.conv2d, F.conv3d)
CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
AVERAGE = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def axiswise(n: Case, x: Tensor, name: str) -> list[int]:
    return list(n.attributes.get(name, [1] * (x.ndim - 2)))


def padding(n: Case, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Cells before and after each axis; with ceil_mode, those that the last window reaches."""
    strides, dilations = axiswise(n, x, "strides"), axiswise(n, x, "dilations")
    automatic, axes = n.attributes.get("auto_pad", "NOTSET"), len(kernel)
    pads = n.attributes.get("pads", [0] * 2 * axes)
    before, after = list(pads[:axes]), list(pads[axes:])
    for i, (extent, k, s, d) in enumerate(
        zip(x.shape[2:], kernel, strides, dilations, strict=True)
    ):
        reach = (k - 1) * d + 1
        if automatic.startswith("SAME"):
            total = max((ceil(extent / s) - 1) * s + reach - extent, 0)
            less = total // 2
            before[i], after[i] = less, total - less
            if automatic == "SAME_LOWER":
                before[i], after[i] = after[i], before[i]
        if n.attributes.get("ceil_mode"):
            count = ceil((extent + before[i] + after[i] - reach) / s) + 1
            if (count - 1) * s >= extent + before[i]:  # no window lies in the padding alone
                count -= 1
            after[i] = max((count - 1) * s + reach - extent - before[i], after[i])
    return before, after


def padded(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    flat = [m for pair in zip(reversed(before), reversed(after), strict=True) for m in pair]
    return F.pad(x, flat, value=value)


def per_channel(values: Tensor, rank: int) -> Tensor:
    return values.reshape(-1, *[1] * (rank - 2))


def conv(n: Case, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    before, after = padding(n, x, w.shape[2:])
    return CONV[x.ndim - 3](
        padded(x, before, after), w, b, axiswise(n, x, "strides"), 0,
        axiswise(n, x, "dilations"), n.attributes.get("group", 1),
    )  # fmt: skip


def conv_transpose(n: Case, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """The whole result, then what the padding cuts off or output_padding adds."""
    axes, kernel = x.ndim - 2, w.shape[2:]
    strides, dilations = axiswise(n, x, "strides"), axiswise(n, x, "dilations")
    whole = CONV_TRANSPOSE[axes - 1](
        x, w, None, strides, 0, 0, n.attributes.get("group", 1), dilations
    )
    more = n.attributes.get("output_padding", [0] * axes)
    automatic = n.attributes.get("auto_pad", "NOTSET")
    pads = list(n.attributes.get("pads", [0] * 2 * axes))
    shape = n.attributes.get("output_shape")
    if shape is None and automatic.startswith("SAME"):
        shape = [extent * s for extent, s in zip(x.shape[2:], strides, strict=True)]
    if shape is not None:
        for i in range(axes):
            total = strides[i] * (x.shape[2 + i] - 1) + more[i]
            total += (kernel[i] - 1) * dilations[i] + 1 - shape[i]
            less = total // 2
            pads[i], pads[axes + i] = total - less, less
            if automatic == "SAME_UPPER":
                pads[i], pads[axes + i] = less, total - less
    after = [m - p for m, p in zip(more, pads[axes:], strict=True)]
    y = padded(whole, [-p for p in pads[:axes]], after)
    return y if b is None else y + per_channel(b, x.ndim)


def max_pool(n: Case, x: Tensor) -> Tensor:
    kernel = n.attributes["kernel_shape"]
    before, after = padding(n, x, kernel)
    return MAX[x.ndim - 3](
        padded(x, before, after, -torch.inf), kernel, axiswise(n, x, "strides"), 0,
        axiswise(n, x, "dilations"),
    )  # fmt: skip


def windows(x: Tensor, n: Case) -> Tensor:
    """(N, C, *grid) -> (N, C, *windows, cells of a window)."""
    kernel = n.attributes["kernel_shape"]
    for axis, (k, s, d) in enumerate(
        zip(kernel, axiswise(n, x, "strides"), axiswise(n, x, "dilations"), strict=False), start=2
    ):
        x = x.unfold(axis, (k - 1) * d + 1, s)[..., ::d]
    return x.flatten(-len(kernel))


def average_pool(n: Case, x: Tensor) -> Tensor:
    """The sums over the numbers of cells that count."""
    kernel, strides = n.attributes["kernel_shape"], axiswise(n, x, "strides")
    before, after = padding(n, x, kernel)
    stated = Case(n.op, n.inputs, attributes={**n.attributes, "ceil_mode": 0})
    if n.attributes.get("count_include_pad"):
        own = padding(stated, x, kernel)
        ones = padded(torch.ones_like(x), *own, 1.0)
        rest = [max(a - o, 0) for a, o in zip(after, own[1], strict=True)]
        ones = padded(ones, [0] * len(rest), rest)
    else:
        ones = padded(torch.ones_like(x), before, after)
    x = padded(x, before, after)
    if set(axiswise(n, x, "dilations")) == {1}:
        pool = AVERAGE[x.ndim - 3]
        return pool(x, kernel, strides) / pool(ones, kernel, strides)
    return windows(x, n).sum(-1) / windows(ones, n).sum(-1)


def lp_pool(n: Case, x: Tensor) -> Tensor:
    before, after = padding(n, x, n.attributes["kernel_shape"])
    return torch.linalg.vector_norm(
        windows(padded(x, before, after), n), n.attributes.get("p", 2), dim=-1
    )


def max_unpool(n: Case, x: Tensor, places: Tensor) -> Tensor:
    assert x.ndim == 4
    assert x.shape[:2] == (1, 1), "ONNX's indices are those of the whole tensor"
    return F.max_unpool2d(x, places, n.attributes["kernel_shape"], n.attributes["strides"])


def resize(n: Case, x: Tensor, *given: Tensor | None) -> Tensor:
    """Resize in its versions, and Upsample."""
    how = {
        "mode": "nearest", "coordinate_transformation_mode": "half_pixel",
        "nearest_mode": "round_prefer_floor", "cubic_coeff_a": -0.75, **n.attributes,
    }  # fmt: skip
    if n.opset < 11:  # before there were transformations to choose from
        how |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        scales, sizes = (given[0] if given else torch.tensor(how["scales"])), None
    else:
        scales, sizes = (*given[1:], None, None)[:2]
    axes = how.get("axes", list(range(x.ndim)))
    factor, extent = [1.0] * x.ndim, list(x.shape)
    for place, axis in enumerate(axes):
        if sizes is not None:
            extent[axis] = int(sizes[place])
            factor[axis] = extent[axis] / x.shape[axis]
        else:
            assert scales is not None
            factor[axis] = float(scales[place])
            extent[axis] = floor(x.shape[axis] * factor[axis])
    own = _interpolated(x, how, factor, extent)
    if own is not None:
        return own
    for axis in range(x.ndim):
        if extent[axis] != x.shape[axis] or factor[axis] != 1:
            matrix = _weights(how, x.shape[axis], extent[axis], factor[axis])
            x = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    return x


def _interpolated(
    x: Tensor, how: dict[str, Any], factor: list[float], extent: list[int]
) -> Tensor | None:
    """What PyTorch's own interpolation gives, where it has the mode."""
    known = {("linear", 3): "linear", ("linear", 4): "bilinear", ("cubic", 4): "bicubic"}
    mode, transformation = known.get((how["mode"], x.ndim)), how["coordinate_transformation_mode"]
    aligned = transformation == "align_corners"
    # Beyond the border torch's antialiasing leaves cells out; ONNX's repeats the last one.
    other = how.get("exclude_outside") or how.get("antialias")
    if mode is None or other or not (aligned or "half" in transformation):
        return None
    given: dict[str, Any] = {"size": extent[2:]}
    if not aligned:
        given = {"scale_factor": factor[2:], "recompute_scale_factor": False}
    return F.interpolate(x, **given, mode=mode, align_corners=aligned)


def _weights(how: dict[str, Any], old: int, new: int, factor: float) -> Tensor:
    """(new, old): what every old cell contributes to a new one, from ONNX's definition."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    # In float32, as ONNX Runtime has it: which cell is nearest may hang on the rounding.
    factor = np.float32(factor)
    for i in np.arange(new, dtype=np.float32):
        x = {
            "half_pixel": (i + 0.5) / factor - 0.5,
            "pytorch_half_pixel": (i + 0.5) / factor - 0.5 if new > 1 else 0.0,
            "asymmetric": i / factor,
            "align_corners": i * (old - 1) / (new - 1) if new > 1 else 0.0,
        }[how["coordinate_transformation_mode"]]
        for place, weight in _taps(how, float(x), old, min(float(factor), 1.0)):
            matrix[int(i), min(max(place, 0), old - 1)] += weight
    return matrix


def _taps(how: dict[str, Any], x: float, old: int, shrink: float) -> list[tuple[int, float]]:
    low = floor(x)
    if how.get("antialias"):
        assert how["mode"] == "linear"
        reach = ceil(1 / shrink)
        near = range(low - reach, low + reach + 2)
        taps = [(place, max(1 - abs(place - x) * shrink, 0.0)) for place in near]
        total = sum(weight for _, weight in taps)
        return [(place, weight / total) for place, weight in taps]
    if how["mode"] == "nearest":
        place = {
            "floor": low, "ceil": ceil(x), "round_prefer_floor": ceil(x - 0.5),
            "round_prefer_ceil": floor(x + 0.5),
        }[how["nearest_mode"]]  # fmt: skip
        return [(place, 1.0)]
    if how["mode"] == "linear":
        return [(low, 1 - (x - low)), (low + 1, x - low)]
    taps = [(place, _cubic(x - place, how["cubic_coeff_a"])) for place in range(low - 1, low + 3)]
    if how.get("exclude_outside"):
        taps = [(place, weight) for place, weight in taps if 0 <= place < old]
        total = sum(weight for _, weight in taps)
        taps = [(place, weight / total) for place, weight in taps]
    return taps


def _cubic(x: float, a: float) -> float:
    """Keys' kernel."""
    x = abs(x)
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return a * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0


def depth_to_space(n: Case, x: Tensor) -> Tensor:
    size = n.attributes["blocksize"]
    if n.attributes.get("mode", "DCR") == "DCR":  # torch has the other order
        x = x.unflatten(1, (size * size, -1)).transpose(1, 2).flatten(1, 2)
    return F.pixel_shuffle(x, size)


def space_to_depth(n: Case, x: Tensor) -> Tensor:
    size = n.attributes["blocksize"]
    own = F.pixel_unshuffle(x, size).unflatten(1, (x.shape[1], size * size))
    return own.transpose(1, 2).flatten(1, 2)


def global_norm(n: Case, x: Tensor) -> Tensor:
    axes = tuple(range(2, x.ndim))
    return torch.linalg.vector_norm(x, n.attributes.get("p", 2), dim=axes, keepdim=True)
