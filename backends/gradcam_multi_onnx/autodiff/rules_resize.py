"""Resampling: a small matrix per axis, which the operator itself tells."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gradcam_multi_onnx.autodiff.registry import ZERO, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value

_ATTRIBUTES = (
    "antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside",
    "extrapolation_value", "height_scale", "keep_aspect_ratio_policy", "mode", "nearest_mode",
    "scales", "width_scale",
)  # fmt: skip


@vjp("Resize", "Upsample", attributes=_ATTRIBUTES)
def _resize(n: Site, g: Value) -> Answers:
    """Multiply by the transpose of each axis' matrix."""
    if n.attribute("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        n.refuse("it crops (tf_crop_and_resize)")
    if n.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        n.refuse("it keeps the aspect ratio")
    scales = _scales(n)
    places = range(1, n.x.rank)
    if scales is not None and scales[0] != 1:
        n.refuse("it resizes the batch axis")
    for axis, old, new in zip(places, n.extents(n.x, places), n.extents(n.y, places), strict=True):
        scale = None if scales is None else scales[axis]
        if old != new or scale not in (None, 1.0):
            g = n.b.along(g, axis, _matrix(n, old, new, scale))
    return (g, *(ZERO for _ in n.node.input[1:]))


def _scales(n: Site) -> list[float] | None:
    """Return the scale of every axis where scales rather than sizes are stated."""
    if n.node.op_type == "Upsample" and n.opset < 9:
        stated = n.attribute("scales")
    else:
        place = 1 if n.node.op_type == "Upsample" or n.opset < 11 else 2
        stated = n.constant(place) if n.has(place) else None
        if stated is None and n.has(place):
            n.refuse("its scales depend on the model's input")
    if stated is None or len(stated) == 0:
        return None
    axes = n.attribute("axes")
    full = [1.0] * n.x.rank
    for axis, scale in zip(range(n.x.rank) if axes is None else axes, stated, strict=True):
        full[axis % n.x.rank] = float(scale)
    return full


def _matrix(n: Site, old: int, new: int, scale: float | None) -> NDArray[Any]:
    """Return the transpose (old, new) of one axis' resampling: the operator on unit vectors."""
    attributes = {
        a.name: onnx.helper.get_attribute_value(a) for a in n.node.attribute if a.name != "axes"
    }
    empty = np.array([], np.float32)
    scales = empty if scale is None else np.array([1, 1, 1, scale], np.float32)
    sizes = None if scale is not None else np.array([1, 1, old, new], np.int64)
    feeds: list[NDArray[Any] | None] = [np.eye(old, dtype=np.float32)[None, None]]
    if n.node.op_type == "Upsample" and n.opset < 9:
        attributes["scales"] = scales.tolist()
    elif n.node.op_type == "Upsample" or n.opset < 11:
        feeds += [scales]
    else:
        # Absent inputs may be left out from opset 13 on; before, they are empty.
        absent = None if n.opset >= 13 else empty
        feeds += [absent, absent if scale is None else scales, sizes]
    matrix: NDArray[Any] = n.evaluate(feeds, attributes)[0, 0]
    if matrix.shape[1] != new:
        n.refuse(f"its scale makes {matrix.shape[1]} of {old} positions, where {new} are stated")
    return matrix
