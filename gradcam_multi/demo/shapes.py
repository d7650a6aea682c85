"""The outlines of the objects: polygons about the origin, y pointing down, and their tones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Tone = Literal["body", "dark", "light"]
Polygon = NDArray[np.float64]
"""Corners `(P, 2)` as x, y in [-1, 1]."""
Parts = tuple[tuple[Polygon, Tone], ...]
"""Drawn first to last."""


def _polygon(*corners: tuple[float, float]) -> Polygon:
    return np.array(corners, dtype=np.float64)


def arc(
    centre: tuple[float, float],
    radius: tuple[float, float],
    start: float = 0.0,
    stop: float = 360.0,
    points: int = 28,
) -> Polygon:
    """Return points on an ellipse from `start` to `stop`, degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, points))
    return np.stack(
        [centre[0] + radius[0] * np.cos(angle), centre[1] + radius[1] * np.sin(angle)], axis=1
    )


def rotation(angle: float) -> NDArray[np.float64]:
    """Return the matrix `(2, 2)` that turns a column x, y clockwise by radians."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _star() -> Parts:
    angle = np.radians(np.arange(10) * 36.0 - 90.0)
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.5)
    outline = np.stack([radius * np.cos(angle), radius * np.sin(angle) + 0.06], axis=1)
    return ((outline, "body"), (outline * 0.5, "light"))


def _heart() -> Parts:
    t = np.linspace(0.0, 2.0 * np.pi, 60)
    x = 16.0 * np.sin(t) ** 3
    y = -(13.0 * np.cos(t) - 5.0 * np.cos(2 * t) - 2.0 * np.cos(3 * t) - np.cos(4 * t))
    outline = np.stack([x / 17.0, (y - 2.5) / 16.0], axis=1)
    return ((outline, "body"), (arc((-0.45, -0.42), (0.2, 0.15)), "light"))


def _fish() -> Parts:
    return (
        (_polygon((0.3, 0.0), (1.0, -0.55), (0.86, 0.0), (1.0, 0.55)), "dark"),
        (_polygon((-0.35, -0.4), (0.15, -0.8), (0.4, -0.3)), "dark"),
        (arc((-0.25, 0.0), (0.75, 0.56)), "body"),
        (_polygon((-0.1, 0.1), (0.3, -0.12), (0.3, 0.32)), "dark"),
        (arc((-0.66, -0.14), (0.13, 0.13), points=14), "light"),
        (arc((-0.68, -0.14), (0.06, 0.06), points=10), "dark"),
    )


def _mug() -> Parts:
    outer = arc((0.42, 0.05), (0.55, 0.52), -80.0, 80.0, 18)
    inner = arc((0.42, 0.05), (0.31, 0.28), 80.0, -80.0, 18)
    foot = arc((-0.2, 0.74), (0.6, 0.16), 0.0, 180.0, 14)
    return (
        (np.concatenate([outer, inner]), "dark"),
        (np.concatenate([_polygon((-0.85, -0.7), (0.45, -0.7)), foot]), "body"),
        (_polygon((-0.85, -0.2), (0.45, -0.2), (0.43, 0.25), (-0.83, 0.25)), "light"),
        (arc((-0.2, -0.7), (0.65, 0.19)), "dark"),
    )


def _tree() -> Parts:
    return (
        (_polygon((-0.17, 0.5), (0.17, 0.5), (0.2, 1.0), (-0.2, 1.0)), "dark"),
        (_polygon((0.0, -0.35), (0.82, 0.66), (-0.82, 0.66)), "body"),
        (_polygon((0.0, -0.62), (0.66, 0.26), (-0.66, 0.26)), "light"),
        (_polygon((0.0, -1.0), (0.5, -0.18), (-0.5, -0.18)), "body"),
    )


def _house() -> Parts:
    return (
        (_polygon((0.42, -0.95), (0.66, -0.95), (0.66, -0.2), (0.42, -0.2)), "dark"),
        (_polygon((-0.72, -0.2), (0.72, -0.2), (0.72, 0.9), (-0.72, 0.9)), "body"),
        (_polygon((0.0, -0.95), (0.98, -0.08), (-0.98, -0.08)), "dark"),
        (_polygon((-0.52, 0.2), (-0.1, 0.2), (-0.1, 0.6), (-0.52, 0.6)), "light"),
        (_polygon((0.14, 0.25), (0.5, 0.25), (0.5, 0.9), (0.14, 0.9)), "dark"),
    )


def _mushroom() -> Parts:
    cap = arc((0.0, 0.08), (0.98, 0.98), 180.0, 360.0, 26)
    brim = arc((0.0, 0.08), (0.98, 0.2), 0.0, 180.0, 20)
    return (
        (_polygon((-0.27, 0.1), (0.27, 0.1), (0.42, 0.95), (-0.42, 0.95)), "light"),
        (np.concatenate([cap, brim]), "body"),
        (arc((-0.48, -0.22), (0.2, 0.18)), "light"),
        (arc((0.1, -0.52), (0.22, 0.17)), "light"),
        (arc((0.52, -0.08), (0.18, 0.16)), "light"),
    )


def _rocket() -> Parts:
    left = arc((0.5, 0.3), (1.02, 1.3), 180.0, 240.0, 14)
    right = arc((-0.5, 0.3), (1.02, 1.3), 300.0, 360.0, 14)
    hull = np.concatenate([left, right, _polygon((0.36, 0.75), (-0.36, 0.75))])
    return (
        (_polygon((-0.26, 0.7), (0.26, 0.7), (0.0, 1.05)), "light"),
        (_polygon((-0.3, 0.05), (-0.92, 0.6), (-0.88, 0.95), (-0.2, 0.7)), "dark"),
        (_polygon((0.3, 0.05), (0.92, 0.6), (0.88, 0.95), (0.2, 0.7)), "dark"),
        (hull, "body"),
        (arc((0.0, -0.12), (0.25, 0.25), points=18), "light"),
        (arc((0.0, -0.12), (0.14, 0.14), points=14), "dark"),
    )


SHAPES: Mapping[str, Callable[[], Parts]] = MappingProxyType(
    {
        "star": _star,
        "heart": _heart,
        "fish": _fish,
        "mug": _mug,
        "tree": _tree,
        "house": _house,
        "mushroom": _mushroom,
        "rocket": _rocket,
    }
)
