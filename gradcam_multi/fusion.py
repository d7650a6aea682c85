"""Several layers' explanations as one."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from gradcam_multi.cam import Status
from gradcam_multi.errors import InputError, suggest
from gradcam_multi.explanation import Explanation
from gradcam_multi.spec import Array

Fuse = Literal["mean", "max", "product"]


def fusion_named(name: str) -> Fuse:
    """Return the name of a fusion; raise InputError for one that there is not."""
    for known in get_args(Fuse):
        if name == known:
            found: Fuse = known
            return found
    raise InputError(
        f"fuse={name!r} was asked for; there are {', '.join(get_args(Fuse))}"
        f"{suggest(str(name), get_args(Fuse))}"
    )


def fused(parts: Sequence[Explanation], how: Fuse) -> Explanation:
    """Fuse explanations of one batch at several layers, each heatmap in [0, 1] of the input's size.

    A mean counts layers alike; a product keeps what all of them show (Domeniconi 2026, RefineCAM,
    arXiv:2605.14641). The map has the input's size; the cost is that of all. An item is as
    `nonfinite` as any of its parts; else it is `ok` where its fused map says something, and as poor
    as the first poor part where not. Raises InputError where the layers' grids differ in rank.
    """
    sizes = {part.size for part in parts}
    if len(sizes) > 1:
        raise InputError(
            f"layers {', '.join(part.layer for part in parts)} lie over inputs of different sizes "
            f"({' and '.join(map(str, sizes))}): name layers whose grids have one rank"
        )
    stacked = np.stack([part.heatmap for part in parts])
    combine: dict[Fuse, Callable[..., Array]] = {
        "mean": np.mean, "max": np.max, "product": np.prod,
    }  # fmt: skip
    cam = combine[how](stacked, axis=0)
    status = tuple(
        _status([part.status[item] for part in parts], bool(np.ptp(map_) > 0))
        for item, map_ in enumerate(cam)
    )
    cam[np.array([found != "ok" for found in status])] = 0
    return replace(
        parts[0],
        cam=cam,
        status=status,
        layer=" + ".join(part.layer for part in parts),
        cost=sum(part.cost for part in parts),
        attribution=None,
    )


def _status(parts: Sequence[Status], telling: bool) -> Status:
    if "nonfinite" in parts:
        return "nonfinite"
    if telling:
        return "ok"
    return next((status for status in parts if status != "ok"), "constant")
