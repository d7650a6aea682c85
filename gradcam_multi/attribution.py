"""What a method of input gradients found for each value of the input, as pictures."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.errors import ImageError

_SHARE = 99.5  # per cent of the values that keep their differences: few are very large


def attribution_pictures(attribution: ArrayLike) -> NDArray[np.uint8]:
    """Show (N, channels, H, W) attributions in their own colours, (N, H, W, 3) uint8 RGB.

    Nothing is grey; what raises the score is lighter in the channel's colour, what lowers it is
    darker. Each item has the scale of its own magnitudes, of which the largest 0.5 per cent are
    cut. Channels are the input's, in its order; a single one is shown in grey.

    Raises ImageError for other shapes, 3-D inputs among them.
    """
    values = np.asarray(attribution, np.float32)
    if values.ndim != 4 or values.shape[1] not in (1, 3):
        raise ImageError(
            f"pictures of an attribution of the shape {values.shape} were asked for: give "
            "(N, channels, H, W) of 1 or 3 channels, such as explanation.attribution"
        )
    magnitudes = np.abs(values).reshape(len(values), -1)
    scale = np.percentile(magnitudes, _SHARE, axis=1)
    # Where fewer values are not zero than are cut, all that there is would be.
    scale = np.where(scale > 0, scale, magnitudes.max(1))[:, None, None, None]
    shares = np.divide(values, scale, out=np.zeros(values.shape), where=scale > 0)
    levels = np.rint(127.5 + 127.5 * np.clip(shares, -1, 1)).astype(np.uint8)
    three = np.broadcast_to(levels, (len(values), 3, *values.shape[2:]))
    return np.ascontiguousarray(np.moveaxis(three, 1, -1))
