"""Max sensitivity: how far does an explanation move when its input is shaken a little?"""

from collections.abc import Callable

import numpy as np

from gradcam_multi.errors import InputError
from gradcam_multi.metrics.score import Vector, item_generators
from gradcam_multi.spec import Array

RADIUS = 0.02
SAMPLES = 10


def max_sensitivity(
    explain: Callable[[Array], Array],
    inputs: Array,
    heatmaps: Array,
    *,
    radius: float = RADIUS,
    samples: int = SAMPLES,
    seed: int = 0,
    first: int = 0,
) -> Vector:
    """Return (N,) the largest relative distance ||h(x + e) - h(x)|| / ||h(x)|| over noise e.

    `explain` maps (N, C, *spatial) inputs to heatmaps for the same targets. The noise is uniform,
    no value larger than `radius` times the item's range; `samples` draws. Where the heatmap is
    zero: 0 if it stays so, else 1. Lower is better. Raises InputError for less than one draw.
    Yeh 2019, arXiv:1901.09392; there without the division, in Captum with it.
    """
    if samples < 1 or not radius > 0:
        raise InputError(
            f"{samples} samples of the radius {radius} were asked for: give at least one, and a "
            "radius above 0"
        )
    count, axes = len(inputs), tuple(range(1, inputs.ndim))
    reach = radius * (inputs.max(axes) - inputs.min(axes))
    generators = item_generators(seed, first, count)
    still = heatmaps.reshape(count, -1).astype(np.float64)
    length, worst = np.linalg.norm(still, axis=1), np.zeros(count)
    for _ in range(samples):
        noise = np.stack(
            [r * g.uniform(-1, 1, inputs.shape[1:]) for r, g in zip(reach, generators, strict=True)]
        )
        moved = explain((inputs + noise).astype(np.float32)).reshape(count, -1)
        distance = np.linalg.norm(moved - still, axis=1)
        relative = np.divide(distance, length, out=np.sign(distance), where=length > 0)
        worst = np.maximum(worst, relative)
    return worst
