"""Coherency, complexity, and the one figure that joins them with the average drop: ADCC."""

import numpy as np
from numpy.typing import ArrayLike

from gradcam_multi.metrics.fidelity import correlations
from gradcam_multi.metrics.score import Vector
from gradcam_multi.spec import Array


def coherency(heatmaps: Array, again: Array) -> Vector:
    """Return (N,) how alike two heatmaps are, (1 + Pearson's correlation) / 2, in [0, 1].

    `again` are the heatmaps of what the first ones leave of the inputs (`masked`): an explanation
    that holds all that mattered explains itself. 0.5 where one is flat. Higher is better
    (Poppi 2021, arXiv:2104.10252).
    """
    flat = [maps.reshape(len(maps), -1).astype(np.float64) for maps in (heatmaps, again)]
    return (1 + correlations(flat[0], flat[1])) / 2


def complexity(heatmaps: Array) -> Vector:
    """Return (N,) the mean of heatmaps in [0, 1]: how much of the input they point at.

    Lower is better (Poppi 2021: the L1 norm, here as a share of the largest there is).
    """
    mean: Vector = heatmaps.reshape(len(heatmaps), -1).mean(1, dtype=np.float64)
    return mean


def adcc(coherent: ArrayLike, complex_: ArrayLike, drop: ArrayLike) -> Vector:
    """Return (N,) the harmonic mean of coherency, 1 - complexity and 1 - average drop, in [0, 1].

    0 where one of the three is 0. Higher is better (Poppi 2021).
    """
    three = np.stack(
        [
            np.asarray(coherent, np.float64),
            1 - np.asarray(complex_, np.float64),
            1 - np.asarray(drop, np.float64),
        ]
    )
    positive = (three > 0).all(0)
    return np.where(positive, 3 / (1 / np.where(positive, three, 1)).sum(0), 0.0)
