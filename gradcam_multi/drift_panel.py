"""The worst cases of a comparison as a picture: what both models looked at, and the difference."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradcam_multi.agreement import Field, sample
from gradcam_multi.cam import rescale
from gradcam_multi.comparison import Comparison
from gradcam_multi.errors import ImageError
from gradcam_multi.explanation import STATUS_NOTES
from gradcam_multi.geometry import Geometry
from gradcam_multi.pair import Pair
from gradcam_multi.panel import PanelEntry, PanelRow, Scale, panel
from gradcam_multi.spec import Array

DIFFERENCE = Scale("coolwarm", "reference more", "other more", alpha=0.7)
"""A diverging scale, grey where both heatmaps are equal; nearly opaque, to be read by colour."""


def drift_panel(
    comparison: Comparison,
    images: Mapping[str, NDArray[np.uint8]],
    pairs: Sequence[Pair],
    *,
    height: int = 256,
) -> Image.Image:
    """Draw picture | reference | other | difference for each of the pairs.

    `images` are (H, W, 3) uint8 RGB by the names that the pairs give them. The difference is that
    of the two heatmaps in [0, 1], the other's less the reference's, in [-1, 1]. `height` is
    that of `panel`. Raises ImageError for a picture that is not there, and maps that are not 2-D.
    """
    layers = {model.name: model.layer for model in comparison.others}
    rows = []
    for pair in pairs:
        if pair.image not in images:
            raise ImageError(f"no picture is given for {pair.image!r}: give those of the pairs")
        rows.append(_row(comparison, pair, images[pair.image], layers[pair.model]))
    return panel(rows, height=height)


def _row(
    comparison: Comparison, pair: Pair, image: NDArray[np.uint8], other_layer: str
) -> PanelRow:
    size = (image.shape[0], image.shape[1])
    placed = zip(pair.maps.cams, pair.maps.geometries, strict=True)
    heatmaps = [heatmap_on(size, cam, geometry) for cam, geometry in placed]
    names = (comparison.reference.name, pair.model)
    layers = (comparison.reference.layer, other_layer)
    entries = [
        PanelEntry(
            heatmaps[i],
            label=pair.label,
            score=pair.probabilities[i],
            method=names[i],
            layer=layers[i],
            note=""
            if (status := pair.statuses[i]) == "ok"
            else f"{status}: {STATUS_NOTES[status]}",
        )
        for i in (0, 1)
    ]
    found, limit = pair.agreement, comparison.limits.max_drift
    beyond = limit is not None and found.drift > limit
    entries.append(
        PanelEntry(
            (heatmaps[1] - heatmaps[0] + 1) / 2,
            label=f"drift {found.drift:.2g}",
            method=f"correlation {found.pearson:.2f}, peak {found.peak_shift:.0f} px off",
            note=f"the drift is beyond {limit:g}" if beyond else "",
            scale=DIFFERENCE,
        )
    )
    return PanelRow(image, tuple(entries), pair.image.rpartition("/")[2], f"{size[1]} x {size[0]}")


def heatmap_on(size: tuple[int, int], cam: Array, geometry: Geometry | None) -> Array:
    """Return a map as a heatmap (H, W) in [0, 1] on a picture of this size; NaN where unseen."""
    if cam.ndim != 2:
        raise ImageError(f"a map with {cam.ndim} spatial axes cannot be drawn on a picture")
    box = geometry.box if geometry else (0.0, 0.0, *map(float, size))
    values, seen = sample(cam, Field(box[:2], box[2:]), size)
    low = values[seen].min(initial=np.inf)
    heatmap: Array = rescale(np.where(seen, values, low)[None])[0]
    heatmap[~seen] = np.nan
    return heatmap
