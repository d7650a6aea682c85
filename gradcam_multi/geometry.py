"""Where in the original picture a model's input lies, and how a map comes back to it."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.errors import PreprocessError
from gradcam_multi.products import product
from gradcam_multi.resize import interpolation_weights


@dataclass(frozen=True)
class Geometry:
    """Where in the original picture a model's input lies.

    `size` is (H, W) of the picture. `box` is (top, left, bottom, right) of what the input covers,
    in pixels of the picture, as floats: pixel i covers i to i + 1, and its centre is at i + 0.5.
    """

    size: tuple[int, int]
    box: tuple[float, float, float, float]

    def restore(self, maps: ArrayLike, fill: float = 0.0) -> NDArray[np.float32]:
        """Resize (..., h, w) maps over the input to (..., H, W) float32 over the picture.

        Half-pixel-centred linear interpolation straight from the given grid: each pixel of the
        picture takes the value at its own centre, clamped at the border of the grid, so that it is
        exact for a box between pixels too, and nothing is lost by resizing twice. Pixels whose
        centre lies outside of the box become `fill`.
        """
        grid = np.asarray(maps, np.float32)
        if grid.ndim < 2 or 0 in grid.shape[-2:]:
            raise PreprocessError(f"a map is (..., h, w), this one has the shape {grid.shape}")
        top, left, bottom, right = self.box
        rows, matrix_h = _axis(self.size[0], top, bottom, grid.shape[-2])
        columns, matrix_w = _axis(self.size[1], left, right, grid.shape[-1])
        inside = product(matrix_h, product(grid, matrix_w.T))
        if inside.shape[-2:] == self.size:
            return inside
        out = np.full((*grid.shape[:-2], *self.size), fill, np.float32)
        out[..., rows, columns] = inside
        return out


@lru_cache(maxsize=256)
def _axis(length: int, low: float, high: float, cells: int) -> tuple[slice, NDArray[np.float32]]:
    """Return the pixels with their centre in [low, high), and their (pixels, cells) weights."""
    first = max(0, math.ceil(low - 0.5))
    last = min(length, math.ceil(high - 0.5))
    centre = np.arange(first, last) + 0.5
    weights = interpolation_weights((centre - low) * (cells / (high - low)) - 0.5, cells)
    weights.setflags(write=False)  # shared by every caller through the cache
    return slice(first, last), weights
