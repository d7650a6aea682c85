"""Scenes drawn from a seed: an object on a cluttered background, its mask, and a corner mark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from gradcam_multi.demo.backdrops import SCALE, SIDE, Colour, draw_backdrop, to_canvas, vivid
from gradcam_multi.demo.shapes import SHAPES, Parts, Tone, rotation

CLASSES: tuple[str, ...] = tuple(SHAPES)
"""What a scene can show; a label is an index into this."""
MARK_COUNT = 8
"""How many different marks there are."""

TRAINING_SEED, VALIDATION_SEED, EXAMPLE_SEED = 0, 1, 5
"""The series that trained the shipped networks, that measures them, and of the shipped pictures."""

_MARK_SIDE = 12
_MARK_MARGIN = 2
_MARK_ABSENT = 0.25  # share of scenes left without a mark where the marks are random
_MARK_COLOURS = (
    (214, 40, 40),
    (240, 140, 30),
    (235, 215, 50),
    (60, 165, 75),
    (40, 190, 200),
    (45, 90, 215),
    (130, 60, 190),
    (230, 90, 175),
)

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture `(96, 96, 3)` uint8 RGB and where its object is, `mask` `(96, 96)` bool.

    `mark` is the number that the corner mark shows, and `mark_box` its left, top, right and bottom
    in pixels, the last two exclusive; both are None in a scene without one.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    label: int
    mark: int | None
    mark_box: Box | None


def draw_scene(label: int, *, seed: int | Sequence[int], mark: int | None = None) -> Scene:
    """Draw one scene; the mark covers its corner and changes nothing else of the picture.

    Raises:
        ValueError: `label` is no index into `CLASSES`, or `mark` is not below `MARK_COUNT`.
    """
    if not 0 <= label < len(CLASSES):
        raise ValueError(f"label {label} was asked for; the classes are 0 to {len(CLASSES) - 1}")
    if mark is not None and not 0 <= mark < MARK_COUNT:
        raise ValueError(f"mark {mark} was asked for; the marks are 0 to {MARK_COUNT - 1}")
    # One stream each, so that the background is the same whatever stands before it.
    background, placement, corner, grain = np.random.default_rng(seed).spawn(4)
    box = _corner_box(corner)
    canvas = draw_backdrop(background)
    mask = _draw_object(canvas, SHAPES[CLASSES[label]](), placement, box)
    if mark is not None:
        _draw_mark(canvas, mark, box)
    image = np.asarray(canvas.reduce(SCALE), dtype=np.float32)
    image = image + grain.normal(0.0, 4.0, image.shape).astype(np.float32)
    return Scene(
        image=np.clip(image + 0.5, 0, 255).astype(np.uint8),
        mask=mask,
        label=label,
        mark=mark,
        mark_box=None if mark is None else box,
    )


def draw_scenes(
    count: int,
    *,
    seed: int,
    marks: Literal["none", "label", "random"] = "none",
    start: int = 0,
) -> list[Scene]:
    """Draw the scenes `start` to `start + count` of the endless series that `seed` names.

    The classes take turns. `marks="label"` gives each scene the mark of its class, `"random"` one
    that says nothing of the class, or none in a quarter of the scenes. The rest of the picture is
    the same for all three.
    """
    scenes = []
    for index in range(start, start + count):
        label = index % len(CLASSES)
        mark = {"none": None, "label": label, "random": _random_mark(seed, index)}[marks]
        scenes.append(draw_scene(label, seed=(seed, index), mark=mark))
    return scenes


def load_examples() -> tuple[Scene, ...]:
    """Load the scenes that come with the package: one of each class, with the mark of its class."""
    folder = resources.files("gradcam_multi.demo") / "data"
    scenes = []
    for label, entry in enumerate(json.loads((folder / "scenes.json").read_text("utf-8"))):
        with (folder / entry["image"]).open("rb") as file, Image.open(file) as picture:
            image = np.asarray(picture.convert("RGB"))
        with (folder / entry["mask"]).open("rb") as file, Image.open(file) as picture:
            mask = np.asarray(picture.convert("L")) > 127
        left, top, right, bottom = entry["mark_box"]
        scenes.append(Scene(image, mask, label, entry["mark"], (left, top, right, bottom)))
    return tuple(scenes)


def _random_mark(seed: int, index: int) -> int | None:
    rng = np.random.default_rng((seed, index, 1))
    absent, mark = rng.random() < _MARK_ABSENT, int(rng.integers(MARK_COUNT))
    return None if absent else mark


def _corner_box(rng: Generator) -> Box:
    far = SIDE - _MARK_MARGIN - _MARK_SIDE
    left, top = (_MARK_MARGIN if near else far for near in rng.integers(2, size=2))
    return left, top, left + _MARK_SIDE, top + _MARK_SIDE


def _draw_object(
    canvas: Image.Image, parts: Parts, rng: Generator, keep_out: Box
) -> NDArray[np.bool_]:
    """Draw the object with its shadow outside of `keep_out`, and return its mask."""
    fills = _tones(rng)
    large = SIDE * SCALE
    while True:
        placed = _place(parts, rng)
        stencil = Image.new("L", (large, large))
        pen = ImageDraw.Draw(stencil)
        for polygon, _ in placed:
            pen.polygon(to_canvas(polygon), fill=255)
        mask = np.asarray(stencil.reduce(SCALE)) > 127
        left, top, right, bottom = keep_out
        # Two pixels more, for the antialiased rim and the shadow.
        near = mask[max(top - 2, 0) : bottom + 2, max(left - 2, 0) : right + 2]
        if not near.any():
            break
    shade = stencil.point(lambda value: value * 2 // 5)
    offset = 2 * SCALE // 2
    canvas.paste((15, 15, 20), (offset, offset, large + offset, large + offset), shade)
    pen = ImageDraw.Draw(canvas)
    for polygon, tone in placed:
        pen.polygon(to_canvas(polygon), fill=fills[tone])
    return mask


def _tones(rng: Generator) -> dict[Tone, Colour]:
    """Choose the three colours of one object, the same choice for every class."""
    body = np.array(vivid(rng))
    accent = np.array(vivid(rng)) if rng.random() < 0.5 else body
    # Flat objects, which have their outline only, keep the details from being the whole of a class.
    detail = rng.choice((0.0, 1.0), p=(0.35, 0.65))
    dark = body + detail * (accent * 0.55 - body)
    light = body + detail * (accent * 0.35 + 255 * 0.65 - body)
    tones: dict[Tone, Colour] = {}
    for tone, value in (("body", body), ("dark", dark), ("light", light)):
        red, green, blue = (int(channel) for channel in value)
        tones[tone] = (red, green, blue)  # type: ignore[index]
    return tones


def _place(parts: Parts, rng: Generator) -> Parts:
    """Scale, turn, mirror and move the parts to somewhere wholly inside the picture, in pixels."""
    radius = rng.uniform(15.0, 25.0)
    turn = np.radians(rng.uniform(-30.0, 30.0))
    mirror = rng.choice((-1.0, 1.0))
    matrix = radius * rotation(turn) @ np.diag([mirror, 1.0])
    turned = [(polygon @ matrix.T, tone) for polygon, tone in parts]
    corners = np.concatenate([polygon for polygon, _ in turned])
    low, high = 2.0 - corners.min(axis=0), SIDE - 4.0 - corners.max(axis=0)
    centre = rng.uniform(low, high)
    return tuple((polygon + centre, tone) for polygon, tone in turned)


def _draw_mark(canvas: Image.Image, mark: int, box: Box) -> None:
    """Draw a badge whose colour and three bars, the bits of the number, both say which it is."""
    pen = ImageDraw.Draw(canvas)

    def fill(left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        corner = (left * SCALE, top * SCALE)
        pen.rectangle((*corner, right * SCALE - 1, bottom * SCALE - 1), fill=colour)

    left, top, right, bottom = box
    fill(left, top, right, bottom, (250, 250, 250))
    fill(left + 1, top + 1, right - 1, bottom - 1, _MARK_COLOURS[mark])
    for bit in range(3):
        if mark >> bit & 1:
            x = left + 2 + 3 * bit
            fill(x, top + 3, x + 2, bottom - 3, (20, 20, 25))


def as_inputs(scenes: Sequence[Scene]) -> NDArray[np.float32]:
    """Return scenes as (N, 3, H, W) float32 in [0, 1]: the preprocessing `unit`."""
    images = np.stack([scene.image for scene in scenes])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
