"""What takes the place of pixels that a metric removes."""

from functools import lru_cache
from typing import Literal

import numpy as np

from gradcam_multi.errors import InputError
from gradcam_multi.spec import Array

Baseline = Literal["blur", "mean"] | float
"""`blur`: the item itself behind a Gaussian; `mean`: its mean over space, channel by channel; a
number: that value everywhere, in the unit of the network's input."""

BLUR_SHARE = 0.05
"""The Gaussian's standard deviation as a share of an axis: 11 pixels of 224."""


def baseline_of(inputs: Array, kind: Baseline) -> Array:
    """Return (N, C, *spatial) float32, or what broadcasts to it, for inputs of that shape.

    Raises InputError for a name that is none.
    """
    if kind == "blur":
        return blurred(inputs)
    if kind == "mean":
        axes = tuple(range(2, inputs.ndim))
        mean: Array = inputs.mean(axes, keepdims=True, dtype=np.float64).astype(np.float32)
        return mean
    try:
        value = float(kind)
    except (TypeError, ValueError):
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"baseline {kind!r} was asked for: give 'blur', 'mean' or a number")
    return np.full((1,) * inputs.ndim, value, np.float32)


def blurred(inputs: Array, share: float = BLUR_SHARE) -> Array:
    """Blur (N, C, *spatial) inputs by a Gaussian, one matrix product an axis.

    Its standard deviation is `share` of the axis; at the border the weights of what is inside are
    scaled up to one.
    """
    out = inputs
    for axis in range(2, inputs.ndim):
        matrix = _gaussian(inputs.shape[axis], share)
        out = np.moveaxis(np.tensordot(out, matrix, (axis, 1)), -1, axis)
    return np.ascontiguousarray(out, np.float32)


@lru_cache(maxsize=32)
def _gaussian(size: int, share: float) -> Array:
    place = np.arange(size)
    weights = np.exp(-0.5 * ((place[:, None] - place) / (share * size)) ** 2)
    matrix: Array = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    matrix.setflags(write=False)  # shared by every caller through the cache
    return matrix
