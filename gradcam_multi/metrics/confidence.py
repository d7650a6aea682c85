"""What becomes of a class's probability when only what a heatmap shows is left of the input.

`before` and `after` are (N,) probabilities of each item's class, for the input and for what
`masked` makes of it.
"""

import numpy as np
from numpy.typing import ArrayLike

from gradcam_multi.metrics.baselines import Baseline, baseline_of
from gradcam_multi.metrics.score import Vector
from gradcam_multi.spec import Array


def masked(inputs: Array, heatmaps: Array, baseline: Baseline = 0.0) -> Array:
    """Return (N, C, *spatial) inputs times (N, *spatial) heatmaps in [0, 1].

    The rest, one less the heatmap, is filled from the baseline; the paper's is zero.
    """
    weight = heatmaps[:, None]
    out: Array = inputs * weight + baseline_of(inputs, baseline) * (1 - weight)
    return out.astype(np.float32, copy=False)


def average_drop(before: ArrayLike, after: ArrayLike) -> Vector:
    """Return (N,) max(0, before - after) / before, in [0, 1]; 0 where nothing can drop.

    The share of the probability that is lost, lower is better (Chattopadhyay 2018,
    arXiv:1710.11063, section 4.1, there in percent).
    """
    y, o = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return np.divide(np.maximum(y - o, 0), y, out=np.zeros_like(y), where=y > 0)


def increase(before: ArrayLike, after: ArrayLike) -> Vector:
    """Return (N,) 1 where the probability rises, else 0.

    The mean is the increase in confidence, higher is better (Chattopadhyay 2018, section 4.1).
    """
    return (np.asarray(after, np.float64) > np.asarray(before, np.float64)).astype(np.float64)


def average_gain(before: ArrayLike, after: ArrayLike) -> Vector:
    """Return (N,) max(0, after - before) / (1 - before), in [0, 1]; 0 where nothing can be gained.

    Higher is better (Zhang 2023, Opti-CAM, arXiv:2301.07002).
    """
    y, o = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return np.divide(np.maximum(o - y, 0), 1 - y, out=np.zeros_like(y), where=y < 1)
