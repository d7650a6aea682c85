"""A heatmap laid over its picture, in 8-bit arithmetic."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.colormaps import (
    BLOCK,
    DEFAULT_COLORMAP,
    check_range,
    lookup_table,
    table_indices,
)
from gradcam_multi.errors import ImageError


def overlay(
    image: NDArray[np.uint8],
    heatmap: ArrayLike,
    *,
    alpha: float = 0.5,
    colormap: str = DEFAULT_COLORMAP,
) -> NDArray[np.uint8]:
    """Blend (..., H, W) heatmaps in [0, 1] over (..., H, W, 3) uint8 RGB pictures.

    Each value is (1 - alpha) * picture + alpha * colour, alpha taken in steps of 1 / 256, so that
    it is within one level of the exact one; alpha 0 is the picture and alpha 1 the colours. The
    picture is used as it is, never stretched. Where the heatmap is NaN the picture is untouched.
    Leading axes broadcast: one picture goes with many heatmaps. The result is
    (..., H, W, 3) uint8.

    Raises ImageError where the sizes differ, for values outside of [0, 1], an alpha outside of
    [0, 1] and an unknown colour map.
    """
    table = lookup_table(colormap)
    values, missing = check_range(heatmap)
    picture = np.asarray(image)
    if picture.dtype != np.uint8 or picture.ndim < 3 or picture.shape[-1] != 3:
        raise ImageError(
            f"a picture is (..., H, W, 3) uint8, this one is {picture.shape} {picture.dtype}: read "
            "it with load_image"
        )
    if picture.shape[-3:-1] != values.shape[-2:]:
        raise ImageError(
            f"the heatmap is {values.shape[-2]}x{values.shape[-1]} and the picture "
            f"{picture.shape[-3]}x{picture.shape[-2]} (height x width): bring the heatmap to the "
            "picture with Geometry.restore"
        )
    if not 0 <= alpha <= 1:
        raise ImageError(f"alpha is {alpha}: give a number from 0 (the picture) to 1 (the colours)")
    try:
        leading = np.broadcast_shapes(picture.shape[:-3], values.shape[:-2])
    except ValueError as error:
        raise ImageError(
            f"{picture.shape[:-3]} pictures and {values.shape[:-2]} heatmaps do not go together: "
            "give one picture, or one for each heatmap"
        ) from error
    height, width = values.shape[-2:]
    pictures = np.broadcast_to(picture, (*leading, height, width, 3))
    heatmaps = np.broadcast_to(values, (*leading, height, width))
    out = np.empty(pictures.shape, np.uint8)

    weight = round(alpha * 256)
    colours = table.astype(np.uint16) * np.uint16(weight) + np.uint16(128)  # + 128 rounds the shift
    for item in np.ndindex(leading):
        flat = heatmaps[item].reshape(-1)
        if missing:
            flat = np.nan_to_num(flat, nan=0.0)  # any entry of the table will do: see below
        _blend(pictures[item].reshape(-1, 3), flat, out[item].reshape(-1, 3), colours, 256 - weight)
        if missing:
            absent = np.isnan(heatmaps[item])
            out[item][absent] = pictures[item][absent]
    return out


def _blend(
    picture: NDArray[np.uint8],
    heatmap: NDArray[np.float32],
    out: NDArray[np.uint8],
    colours: NDArray[np.uint16],
    weight: int,
) -> None:
    """Write (weight * picture + colours[heatmap]) / 256 of n pixels to `out`, block by block."""
    # One item of six bytes a pixel: NumPy's take copies it whole, faster than a row of three.
    entries = colours.view("V6")[:, 0]
    terms, totals = np.empty(BLOCK, "V6"), np.empty((BLOCK, 3), np.uint16)
    for block, index in table_indices(heatmap):
        count = len(index)
        total = totals[:count]
        total[...] = picture[block]
        total *= np.uint16(weight)
        # "clip" writes straight to the buffer; nothing is left to clip.
        colour = np.take(entries, index, out=terms[:count], mode="clip")
        total += colour.view(np.uint16).reshape(count, 3)
        total >>= 8
        out[block] = total
