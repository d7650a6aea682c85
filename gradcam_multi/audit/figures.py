"""Where the evidence of a map lies: figures of (N, h, w) maps, before resizing.

The evidence is what of a map is above zero. Shares are of its sum over the pixels of the model's
input, after half-pixel-centred linear interpolation: a region holds the pixels whose centre lies in
it. Interpolation is linear along each axis, so the sum over a rectangle of pixels is one of the
cells with one weight a row and one a column: nothing has to be resized.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.resize import interpolation_matrix
from gradcam_multi.spec import Array

Vector = NDArray[np.float64]
Rectangle = tuple[float, float, float, float]
"""Top, left, bottom, right."""

BORDER = 1 / 8
"""How wide the border is, as a share of the input's side."""
CORNER = 1 / 4
"""The side of a corner's square, as a share of the input's side."""
CORNERS: dict[str, Rectangle] = {
    "top_left": (0, 0, CORNER, CORNER),
    "top_right": (0, 1 - CORNER, CORNER, 1),
    "bottom_left": (1 - CORNER, 0, 1, CORNER),
    "bottom_right": (1 - CORNER, 1 - CORNER, 1, 1),
}
"""As shares of the input's sides."""
_INNER: Rectangle = (BORDER, BORDER, 1 - BORDER, 1 - BORDER)


@dataclass(frozen=True)
class Figures:
    """What is said of N maps; NaN where a map has no evidence, or a peak no single place.

    `peaks` (N, 2) are the centre of the largest cell, row and column, as shares of the input's
    sides; of equal cells the first. `entropy` is that of the cells' shares, divided by the
    logarithm of their number: 0 for one cell, 1 for all alike.
    """

    peaks: Vector
    corners: dict[str, Vector]
    border: Vector
    entropy: Vector


def figures(cam: Array, size: tuple[int, int]) -> Figures:
    """Return the figures of maps (N, h, w) over inputs of the size (H, W)."""
    evidence = np.maximum(cam, 0, dtype=np.float64)
    whole = _sums(evidence, size, (0, 0, 1, 1))
    return Figures(
        peaks=_peaks(evidence),
        corners={name: _share(_sums(evidence, size, box), whole) for name, box in CORNERS.items()},
        border=_share(whole - _sums(evidence, size, _INNER), whole),
        entropy=_entropy(evidence),
    )


def box_shares(cam: Array, size: tuple[int, int], boxes: Sequence[Rectangle | None]) -> Vector:
    """Return (N,) the share of each map's evidence in a box given as shares of the input's sides.

    NaN without evidence, without a box, and for one that holds no pixel's centre.
    """
    found = np.full(len(cam), np.nan)
    rows = np.array([row for row, box in enumerate(boxes) if box is not None], np.intp)
    if not len(rows):
        return found
    asked = np.array([boxes[row] for row in rows], np.float64)
    evidence = np.maximum(cam[rows], 0, dtype=np.float64)
    down = _inside(cam.shape[1], size[0], asked[:, 0], asked[:, 2])
    across = _inside(cam.shape[2], size[1], asked[:, 1], asked[:, 3])
    part = np.einsum("nhw,nh,nw->n", evidence, down, across)
    share = _share(part, _sums(evidence, size, (0, 0, 1, 1)))
    found[rows] = np.where(down.any(1) & across.any(1), share, np.nan)
    return found


def _inside(cells: int, pixels: int, low: Vector, high: Vector) -> Vector:
    """(N, cells) what the pixels with their centre between two shares of the side sum to."""
    centre = (np.arange(pixels) + 0.5) / pixels
    first = np.searchsorted(centre, low, side="right")
    last = np.maximum(np.searchsorted(centre, high, side="left"), first)
    total = _cumulated(cells, pixels)
    weights: Vector = total[last] - total[first]
    return weights


@lru_cache(maxsize=64)
def _cumulated(cells: int, pixels: int) -> Vector:
    """(pixels + 1, cells) the weights of the cells in the sum of the first pixels."""
    matrix = interpolation_matrix(cells, pixels).astype(np.float64)
    return np.concatenate([np.zeros((1, cells)), matrix.cumsum(0)])


@lru_cache(maxsize=64)
def _weights(grid: tuple[int, int], size: tuple[int, int], box: Rectangle) -> Vector:
    """(h, w) weights of the cells in the sum over a rectangle of pixels."""
    down, across = (
        _inside(grid[axis], size[axis], *(np.array([box[axis + end]]) for end in (0, 2)))[0]
        for axis in (0, 1)
    )
    return np.outer(down, across)


def _sums(evidence: Vector, size: tuple[int, int], box: Rectangle) -> Vector:
    grid = evidence.shape[1:]
    found: Vector = np.einsum("nhw,hw->n", evidence, _weights((grid[0], grid[1]), size, box))
    return found


def _share(part: Vector, whole: Vector) -> Vector:
    share: Vector = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return share


def _peaks(evidence: Vector) -> Vector:
    n, h, w = evidence.shape
    flat = evidence.reshape(n, -1)
    row, column = np.divmod(flat.argmax(1), w)
    peaks = np.stack([(row + 0.5) / h, (column + 0.5) / w], 1)
    peaks[flat.max(1) <= flat.min(1)] = np.nan
    return peaks


def _entropy(evidence: Vector) -> Vector:
    flat = evidence.reshape(len(evidence), -1)
    total = flat.sum(1, keepdims=True)
    p = np.divide(flat, total, out=np.full_like(flat, np.nan), where=total > 0)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    found: Vector = -(p * logs).sum(1) / max(np.log(flat.shape[1]), 1e-300)
    return np.abs(found)  # -0.0 of a single cell
