"""Rows as a page carries them: small pictures, and maps as numbers of eight bits."""

import base64
from io import BytesIO
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from gradcam_multi.page.rows import ClassMap, Row
from gradcam_multi.resize import resize
from gradcam_multi.spec import Array

TOTAL = 18_000_000
"""Bytes that the rows of a page may take together, so that a page is below 20 MB."""
_LARGEST = 150_000  # bytes of one row: a few pictures need not be larger than a screen
_SIDES = ((24, 960), (100, 640), (400, 384))  # up to so many pictures, the longer side in pixels
_SMALLEST = 256
_QUALITIES = (85, 70, 50)
_CELLS = 4096  # of a map that is kept as it is
_FEW_CELLS = 784  # 28 x 28: of one in a page of many pictures


def encoded(row: Row, count: int) -> dict[str, Any]:
    """Return a row as JSON-ready data, one of `count` that share a page."""
    budget = min(TOTAL // max(count, 1), _LARGEST)
    cells = _CELLS if count <= _SIDES[-1][0] else _FEW_CELLS
    classes = [_class(each, cells) for each in row.classes]
    size = row.picture.shape[:2] if row.picture is not None else None
    said: dict[str, Any] = {
        "title": row.title,
        "classes": classes,
        "shown": row.shown,
        "view": _view(row, size),
        "label": row.label,
        "correct": row.correct,
        "error": row.error,
        "findings": list(row.findings),
    }
    if size is not None and row.picture is not None:
        taken = sum(len(each.get("map", "")) + len(each["name"]) + 150 for each in classes)
        said["size"] = [int(n) for n in size]
        said["picture"], said["drawn"] = _picture(row.picture, count, max(budget - taken, 2000))
    return said


def _class(each: ClassMap, cells: int) -> dict[str, Any]:
    said: dict[str, Any] = {
        "name": each.name,
        "score": _number(each.score),
        "p": _number(each.probability),
        "status": each.status,
    }
    if each.cam is not None and each.cam.ndim == 2:
        said |= quantised(_reduced(each.cam, cells))
        if each.status == "ok":
            row, column = np.unravel_index(np.nanargmax(each.cam), each.cam.shape)
            said["peak"] = [
                round((float(place) + 0.5) / n, 4)
                for place, n in zip((row, column), each.cam.shape, strict=True)
            ]
    return said


def _number(value: float | None) -> float | None:
    """A float as JSON can say it, to six digits."""
    return None if value is None or not isfinite(value) else float(f"{value:.6g}")


def quantised(cam: Array) -> dict[str, Any]:
    """Return a map (h, w) as `grid`, and `map`: its levels 0 (lowest) to 255 (highest), base64.

    Half a level, 0.2 % of the map's range, is the most that a value is off; a heatmap is stretched
    to [0, 1], so nothing else of it is lost. What is not finite counts as lowest.
    """
    values = np.where(np.isfinite(cam), cam, np.nan).astype(np.float64)
    finite = values[~np.isnan(values)]
    low = float(finite.min()) if finite.size else 0.0
    spread = float(finite.max()) - low if finite.size else 0.0
    levels = np.zeros(cam.shape, np.uint8)
    if spread > 0:
        levels = np.rint(np.nan_to_num((values - low) * (255 / spread))).astype(np.uint8)
    grid = [int(n) for n in cam.shape]
    return {"grid": grid, "map": base64.b64encode(levels.tobytes()).decode()}


def _reduced(cam: Array, cells: int) -> Array:
    """A map of at most so many cells: of finer ones, samples of the map at a coarser grid."""
    if cam.size <= cells:
        return cam
    shrink = (cells / cam.size) ** 0.5
    size = tuple(max(1, int(n * shrink)) for n in cam.shape)
    coarse: Array = resize(cam[None], size)[0]
    return coarse


def _view(row: Row, size: tuple[int, ...] | None) -> list[float]:
    """What the model saw, as shares of the picture's sides."""
    if row.view is None or size is None:
        return [0, 0, 1, 1]
    return [round(edge / size[place % 2], 6) for place, edge in enumerate(row.view)]


def _picture(picture: NDArray[np.uint8], count: int, budget: int) -> tuple[str, list[int]]:
    """Return a picture as a data address of at most about `budget` bytes, and its (H, W)."""
    side = next((side for most, side in _SIDES if count <= most), _SMALLEST)
    kind = "WEBP" if features.check("webp") else "JPEG"
    while True:
        small = Image.fromarray(picture)
        small.thumbnail((side, side), Image.Resampling.BICUBIC)
        for quality in _QUALITIES:
            stream = BytesIO()
            small.save(stream, kind, quality=quality)
            if stream.tell() * 4 / 3 <= budget or side <= 96:
                text = base64.b64encode(stream.getvalue()).decode()
                return f"data:image/{kind.lower()};base64,{text}", [small.height, small.width]
        side = int(side * 0.75)
