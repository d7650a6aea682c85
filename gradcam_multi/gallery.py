"""Explanations as rows of a panel: what `Explanation.to_pil` and the command line draw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradcam_multi.errors import ImageError
from gradcam_multi.explanation import STATUS_NOTES, Explanation
from gradcam_multi.geometry import Geometry
from gradcam_multi.panel import PanelEntry, PanelRow, panel


def picture_row(
    image: NDArray[np.uint8],
    explanations: Sequence[Explanation],
    geometry: Geometry | None = None,
    title: str = "",
    prefixes: Sequence[str] | None = None,
) -> PanelRow:
    """Lay explanations of one item each beside a picture, (H, W, 3) uint8 RGB.

    `prefixes` are written before the labels, one an explanation: to tell networks apart.
    """
    entries = []
    for prefix, explanation in zip(prefixes or [""] * len(explanations), explanations, strict=True):
        p = float(explanation.probabilities[0])
        status = explanation.status[0]
        entries.append(
            PanelEntry(
                heatmap=explanation.heatmaps_on(image.shape[:2], geometry)[0],
                label=prefix + explanation.name(0),
                score=None if np.isnan(p) else p,
                method=explanation.method,
                layer=explanation.layer,
                note="" if status == "ok" else f"{status}: {STATUS_NOTES[status]}",
            )
        )
    return PanelRow(image, tuple(entries), title, f"{image.shape[1]} x {image.shape[0]}")


def gallery(
    explanation: Explanation,
    images: Any = None,
    *,
    geometry: Geometry | Sequence[Geometry] | None = None,
    **options: Any,
) -> Image.Image:
    """Draw a row an item; without pictures the heatmaps stand alone.

    `images` are (N, H, W, 3) uint8 RGB, or a list of N pictures of any size. `options` are those
    of `panel`. Raises ImageError where the number of pictures is not that of the items, or where
    the map is not 2-D.
    """
    if images is None:
        options.setdefault("alpha", 1.0)
    blank = np.zeros((*explanation.size, 3), np.uint8)
    rows = [
        picture_row(blank if image is None else image, [item], where, f"item {number}")
        for number, (image, item, where) in enumerate(paired(explanation, images, geometry))
    ]
    return panel(rows, **options)


def paired(
    explanation: Explanation,
    images: Any = None,
    geometry: Geometry | Sequence[Geometry] | None = None,
) -> list[tuple[NDArray[np.uint8] | None, Explanation, Geometry | None]]:
    """Lay the items of a batch beside their pictures, None where none are given.

    Raises ImageError where the number of pictures is not that of the items, or where the map is
    not 2-D.
    """
    if explanation.cam.ndim != 3:
        raise ImageError(
            f"the map of {explanation.layer!r} has {explanation.cam.ndim - 1} spatial axes: a "
            "picture shows 2; save .npz or .json instead"
        )
    if images is None:
        images = [None] * len(explanation)
    elif isinstance(images, np.ndarray) and images.ndim == 3:
        images = images[None]
    if len(images) != len(explanation):
        raise ImageError(
            f"{len(images)} pictures were given for {len(explanation)} items: give one for each"
        )
    each = geometry if isinstance(geometry, Sequence) else [geometry] * len(explanation)
    return list(zip(images, explanation, each, strict=True))
