"""Maps scaled to [0, 1], and when there is nothing in one to be scaled."""

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.spec import Array

# A spread of a few float32 roundings of the map's magnitude is noise; stretched to [0, 1] it would
# look like evidence. Relative, so that the unit of the score does not matter.
_FLAT = 8 * np.finfo(np.float32).eps


def is_flat(low: Array, high: Array) -> NDArray[np.bool_]:
    """Return whether there is nothing but rounding between the smallest and largest values."""
    with np.errstate(invalid="ignore"):
        flat: NDArray[np.bool_] = high - low <= _FLAT * np.maximum(np.abs(low), np.abs(high))
    return flat


def rescale(maps: Array) -> Array:
    """Scale each of (N, *size) finite maps to [0, 1] by its minimum and maximum; flat ones to 0."""
    axes = tuple(range(1, maps.ndim))
    low = maps.min(axes, keepdims=True)
    high = maps.max(axes, keepdims=True)
    # Divided, not multiplied by the inverse: the largest value then is 1 exactly, never above.
    spread = np.where(is_flat(low, high), np.float32(np.inf), high - low)
    out: Array = maps - low
    out /= spread
    return out
