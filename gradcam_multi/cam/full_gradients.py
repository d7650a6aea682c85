"""FullGrad: the input's and all biases' contributions to the score, which together are the score.

A network that is linear but for ReLU and maxima has S = sum x dS/dx + sum b dS/db, over the input x
and the biases b of all layers; whether it is so is asked of the network itself.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam.probe import FullGradients, Probe, Scores
from gradcam_multi.cam.scaling import rescale
from gradcam_multi.errors import UnsupportedError
from gradcam_multi.resize import resize
from gradcam_multi.spec import Array

PIECEWISE_LINEAR = "networks linear but for ReLU and maxima (no SiLU, GELU, layer normalisation)"
# Half precision rounds to 2^-11, and a few such roundings add up; a bias that is missing, or an
# operation that is not linear, leaves out about the whole of what it adds.
_TOLERANCE = 5e-3


def fullgrad(probe: Probe) -> Array:
    """Add up the magnitudes of all contributions (Srinivas 2019, equation 5), (N, *size).

    Each channel of the input and of each layer with a grid is taken in magnitude, scaled to [0, 1]
    by its minimum and maximum, and resized to the input. Raises UnsupportedError where the
    contributions do not add up to the score.
    """
    return _summed(probe, _scaled_channels)


def fullgrad_official(probe: Probe) -> Array:
    """Do as `fullgrad`, with all channels of a layer scaled by one minimum and maximum."""
    return _summed(probe, rescale)


def _scaled_channels(magnitudes: Array) -> Array:
    """Scale each channel by itself, (N, C, *grid)."""
    return rescale(magnitudes.reshape(-1, *magnitudes.shape[2:])).reshape(magnitudes.shape)


def _summed(probe: Probe, scaled: Callable[[Array], Array]) -> Array:
    found = probe.full_gradients()
    _check(found)
    size = found.image.shape[2:]
    maps = [found.image, *(x for x in found.layers if x.ndim == len(size) + 2)]
    # The resize is linear: that of the sum over channels is the sum of those of the channels.
    summed: Array = np.sum([resize(scaled(np.abs(x)).sum(1), size) for x in maps], axis=0)
    return summed


def _check(found: FullGradients) -> None:
    """Raise UnsupportedError where something else contributes to the score of a finite item."""
    image = item_sums(found.image)
    layers = [item_sums(each) for each in found.layers]
    given = image + found.others + sum(layers)
    size = np.abs(found.score) + np.abs(image) + np.abs(found.others) + sum(map(np.abs, layers))
    wrong: NDArray[np.bool_] = np.abs(given - found.score) > _TOLERANCE * size
    if wrong.any():
        i = int(np.argmax(wrong))
        raise UnsupportedError(
            f"fullgrad was asked for, and the input and the biases of {len(layers)} layers "
            f"make up {given[i]:.4g} of a score of {found.score[i]:.4g}: it is defined for "
            f"{PIECEWISE_LINEAR}, all of whose biases the adapter finds; take another method"
        )


def item_sums(array: Array) -> Scores:
    """Return the sum of each item's values, (N, ...) to (N,)."""
    total: Scores = array.reshape(len(array), -1).sum(1, dtype=np.float64)
    return total
