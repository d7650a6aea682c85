"""Does a heatmap lie on the object? Heatmaps (N, *spatial) in [0, 1] against masks of that shape.

An item whose mask is empty has no answer, NaN, and is left out of means; a heatmap that is zero
everywhere points at nothing and scores 0.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.errors import InputError
from gradcam_multi.metrics.score import Vector
from gradcam_multi.spec import Array

TOLERANCE = 0.0
THRESHOLD = 0.5


def box_masks(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (N, H, W) masks of boxes (left, top, right, bottom) in pixels, the last exclusive.

    Raises InputError for a box without area.
    """
    masks = np.zeros((len(boxes), *size), np.bool_)
    for mask, box in zip(masks, boxes, strict=True):
        left, top, right, bottom = box
        if not (left < right and top < bottom):
            raise InputError(f"box {tuple(box)} has no area: give left, top, right, bottom")
        rows, columns = (np.arange(n) + 0.5 for n in size)
        mask[:] = np.outer((rows > top) & (rows < bottom), (columns > left) & (columns < right))
    return masks


def pointing_game(heatmaps: Array, masks: ArrayLike, tolerance: float = TOLERANCE) -> Vector:
    """Return (N,) 1 where the largest value lies on the mask or within `tolerance` pixels of it.

    Where several pixels are largest, the share of them that does. Higher is better (Zhang 2016,
    arXiv:1608.00507; there and in TorchRay with 15 pixels, here none by default).
    """
    found = np.full(len(heatmaps), np.nan)
    for row, (values, mask) in enumerate(zip(heatmaps, _checked(heatmaps, masks), strict=True)):
        if not mask.any():
            continue
        if values.max() <= 0:
            found[row] = 0
            continue
        peaks, inside = np.argwhere(values == values.max()), np.argwhere(mask)
        hits = [((inside - peak) ** 2).sum(1).min() <= tolerance**2 for peak in peaks]
        found[row] = np.mean(hits)
    return found


def energy(heatmaps: Array, masks: ArrayLike) -> Vector:
    """Return (N,) the share of each heatmap's sum that lies on its mask, in [0, 1].

    Higher is better (Wang 2020, Score-CAM, arXiv:1910.01279; there in boxes).
    """
    inside = _checked(heatmaps, masks).reshape(len(heatmaps), -1)
    values = heatmaps.reshape(len(heatmaps), -1).astype(np.float64)
    total = values.sum(1)
    part = np.divide((values * inside).sum(1), total, out=np.zeros_like(total), where=total > 0)
    return np.where(inside.any(1), part, np.nan)


def iou(heatmaps: Array, masks: ArrayLike, threshold: float = THRESHOLD) -> Vector:
    """Return (N,) intersection over union of each mask and the pixels not below the threshold.

    `threshold` is a share of the heatmap's largest value. Higher is better (Zhou 2016,
    arXiv:1512.04150, takes 0.2, and boxes).
    """
    inside = _checked(heatmaps, masks).reshape(len(heatmaps), -1)
    values = heatmaps.reshape(len(heatmaps), -1)
    largest = values.max(1, keepdims=True)
    shown = (values >= threshold * largest) & (largest > 0)
    union = (shown | inside).sum(1)
    part = (shown & inside).sum(1) / np.maximum(union, 1)
    return np.where(inside.any(1), part, np.nan)


def _checked(heatmaps: Array, masks: ArrayLike) -> NDArray[np.bool_]:
    found = np.asarray(masks)
    if found.shape != heatmaps.shape:
        raise InputError(
            f"masks of the shape {found.shape} were given for heatmaps of {heatmaps.shape}: give "
            "one mask an item, of the input's spatial size"
        )
    return found.astype(np.bool_)
