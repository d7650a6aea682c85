"""Backgrounds: muted textures cluttered with things that are of no class."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from gradcam_multi.demo.shapes import SHAPES, Polygon, arc, rotation

SIDE = 96
"""Height and width of a scene, pixels."""
SCALE = 3
"""Scenes are drawn larger by this and averaged, so that edges are antialiased."""

Colour = tuple[int, int, int]


def _colour(rng: Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(
        rng.random(), rng.uniform(*saturation), rng.uniform(*value)
    )
    return round(255 * red), round(255 * green), round(255 * blue)


def muted(rng: Generator) -> Colour:
    """Choose a colour for textures, lines and blobs."""
    return _colour(rng, (0.08, 0.38), (0.3, 0.85))


def vivid(rng: Generator) -> Colour:
    """Choose a colour for objects, and for the clutter that is to be taken for one."""
    return _colour(rng, (0.65, 1.0), (0.6, 1.0))


def to_canvas(polygon: Polygon) -> list[tuple[float, float]]:
    """Turn corners in pixels of the scene into ImageDraw's, on the enlarged canvas."""
    return [(x, y) for x, y in (polygon * SCALE).tolist()]


def draw_backdrop(rng: Generator) -> Image.Image:
    """Draw a gradient with smooth noise and ripples; then blobs, lines, fragments and decoys."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE - 0.5
    angle, ripple = rng.uniform(0, 2 * np.pi, 2)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(ripple) * columns + np.sin(ripple) * rows
    first, second = (np.array(muted(rng), dtype=np.float32) for _ in range(2))
    texture = first + (second - first) * (along[..., None] * 0.8 + 0.5)
    for cells, strength in ((5, 26.0), (20, 13.0), (48, 9.0)):
        noise = rng.normal(0.0, rng.uniform(0.3, 1.0) * strength, (cells, cells))
        texture += np.asarray(
            Image.fromarray(noise.astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        )[..., None]
    waves = np.sin(across * rng.uniform(20, 110) + rng.uniform(0, 6))
    texture += (rng.uniform(0, 13) * waves)[..., None].astype(np.float32)
    canvas = Image.fromarray(np.clip(texture, 0, 255).astype(np.uint8)).resize(
        (SIDE * SCALE, SIDE * SCALE), Image.Resampling.BILINEAR
    )
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(3, 7)):
        _draw_blob(pen, rng)
    for _ in range(rng.integers(3, 8)):
        points = rng.uniform(-10, SIDE + 10, (3, 2))
        pen.line(to_canvas(_bend(points)), fill=muted(rng), width=int(rng.integers(2, 9)))
    for _ in range(rng.integers(2, 6)):
        _draw_fragment(pen, rng)
    for _ in range(rng.integers(3, 8)):
        _draw_decoy(pen, rng)
    return canvas


def _bend(points: Polygon) -> Polygon:
    """Return a quadratic curve through two ends, pulled by the middle one of three points."""
    t = np.linspace(0.0, 1.0, 12)[:, None]
    curve: Polygon = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
    return curve


def _draw_blob(pen: ImageDraw.ImageDraw, rng: Generator) -> None:
    outline = arc((0.0, 0.0), (1.0, 1.0), points=24)
    lobes = rng.integers(2, 5)
    wobble = 1.0 + 0.25 * np.sin(lobes * np.linspace(0, 2 * np.pi, 24) + rng.uniform(0, 6))
    radius = rng.uniform(5, 17) * np.array([1.0, rng.uniform(0.5, 1.0)])
    pen.polygon(
        to_canvas(outline * wobble[:, None] * radius + rng.uniform(0, SIDE, 2)), fill=muted(rng)
    )


def _draw_fragment(pen: ImageDraw.ImageDraw, rng: Generator) -> None:
    """Draw half of the outline of a part of an object: no corner or curve gives a class away."""
    parts = tuple(SHAPES.values())[rng.integers(len(SHAPES))]()
    outline = parts[rng.integers(len(parts))][0]
    outline = np.roll(outline, int(rng.integers(len(outline))), axis=0)
    half = outline[: max(3, len(outline) // 2)] - outline.mean(axis=0)
    turn = rng.uniform(0, 2 * np.pi)
    placed = rng.uniform(10, 20) * half @ rotation(turn).T + rng.uniform(0, SIDE, 2)
    pen.polygon(to_canvas(placed), fill=vivid(rng) if rng.random() < 0.5 else muted(rng))


def _draw_decoy(pen: ImageDraw.ImageDraw, rng: Generator) -> None:
    """Draw a small shape as vivid as the objects are, so that colour alone finds nothing."""
    radius = rng.uniform(2.5, 7.0)
    x, y = rng.uniform(0, SIDE, 2)
    turn = rng.uniform(0, 360)
    fill = vivid(rng)
    kind = rng.integers(4)
    if kind == 0:
        pen.polygon(to_canvas(arc((x, y), (radius, radius), points=20)), fill=fill)
    elif kind == 1:
        pen.line(to_canvas(arc((x, y), (radius, radius))), fill=fill, width=5)
    elif kind == 2:
        pen.polygon(to_canvas(arc((x, y), (radius, radius), turn, turn + 360, 4)), fill=fill)
    else:
        ends = arc((x, y), (1.3 * radius, 1.3 * radius), turn, turn + 180, 2)
        pen.line(to_canvas(ends), fill=fill, width=int(rng.integers(4, 10)))
