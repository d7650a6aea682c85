"""Maps scaled to [0, 1], and when there is nothing in one to be scaled."""

from math import prod

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.resize import resize
from gradcam_multi.spec import Array

# A spread of a few float32 roundings of the map's magnitude is noise; stretched to [0, 1] it would
# look like evidence. Relative, so that the unit of the score does not matter.
_FLAT = 8 * np.finfo(np.float32).eps
_BLOCK = 1 << 19  # elements


def is_flat(low: Array, high: Array) -> NDArray[np.bool_]:
    """Return whether there is nothing but rounding between the smallest and largest values."""
    with np.errstate(invalid="ignore"):
        flat: NDArray[np.bool_] = high - low <= _FLAT * np.maximum(np.abs(low), np.abs(high))
    return flat


def rescale(maps: Array, out: Array | None = None) -> Array:
    """Scale each of (N, *size) finite maps to [0, 1] by its minimum and maximum; flat ones to 0.

    The result is written to `out` where that is given, which may be the maps themselves.
    """
    found: Array = np.empty_like(maps) if out is None else out
    # Some maps at a time stay in the processor's cache from the first look to the last.
    step = max(1, _BLOCK // max(1, prod(maps.shape[1:])))
    axes = tuple(range(1, maps.ndim))
    for first in range(0, len(maps), step):
        some = maps[first : first + step]
        low, high = some.min(axes, keepdims=True), some.max(axes, keepdims=True)
        # Divided, not multiplied by the inverse: the largest value then is 1 exactly, never above.
        spread = np.where(is_flat(low, high), np.float32(np.inf), high - low)
        scaled = np.subtract(some, low, out=found[first : first + step])
        scaled /= spread
    return found


def heatmaps(maps: Array, size: tuple[int, ...]) -> Array:
    """Resize (N, *grid) finite maps to (N, *size), and scale each to [0, 1]."""
    large = resize(maps, size)
    # In place where that is not the maps: memory that nobody has touched yet is the slowest.
    return rescale(large, None if np.may_share_memory(large, maps) else large)
