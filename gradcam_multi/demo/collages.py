"""Several scenes in one picture: what segmentation, detection and captioning are shown on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.demo.backdrops import SIDE
from gradcam_multi.demo.scenes import CLASSES, Box, draw_scene


@dataclass(frozen=True, eq=False)
class Collage:
    """One picture `(H, W, 3)` uint8 RGB with an object a tile, and where each of them is.

    `objects` `(H, W)` int64 is 0 where there is no object, and 1, 2, ... on the tiles' objects, in
    the order of reading. `labels` are their classes, indices into the names that
    were given, and `boxes` their left, top, right and bottom in pixels, the last two exclusive.
    """

    image: NDArray[np.uint8]
    objects: NDArray[np.int64]
    labels: tuple[int, ...]
    boxes: tuple[Box, ...]


def draw_collages(
    count: int,
    names: Sequence[str] = CLASSES,
    *,
    seed: int,
    rows: int = 1,
    columns: int = 1,
    shrink: int = 1,
    scenes: int | None = None,
) -> list[Collage]:
    """Draw pictures of `rows` x `columns` tiles, each a scene of one of the classes named.

    `scenes` of them are drawn, as many as pictures where it is left out, and put together by lot,
    half of them mirrored. A tile has the side of a scene divided by `shrink`.

    Raises:
        ValueError: there is no class of that name, nothing to draw from, or `shrink` does not
            divide the side.
    """
    stock = count if scenes is None else scenes
    if not names or not set(names) <= set(CLASSES):
        raise ValueError(f"classes {list(names)} were asked for; there are {', '.join(CLASSES)}")
    if stock < 1 or shrink < 1 or SIDE % shrink:
        raise ValueError(
            f"{stock} scenes shrunk by {shrink} were asked for: give some, and a divisor of {SIDE}"
        )
    drawn = [
        draw_scene(CLASSES.index(names[index % len(names)]), seed=(seed, index))
        for index in range(stock)
    ]
    order = [names.index(CLASSES[scene.label]) for scene in drawn]
    small = [(_means(s.image, shrink) + 0.5, _means(s.mask, shrink) >= 0.5) for s in drawn]
    rng = np.random.default_rng((seed, stock))
    collages = []
    for _ in range(count):
        chosen = rng.integers(stock, size=rows * columns)
        turns = rng.choice((-1, 1), rows * columns)
        tiles = [
            [part[:, :: int(t)] for part in small[c]] for c, t in zip(chosen, turns, strict=True)
        ]
        collages.append(_collage(tiles, tuple(order[c] for c in chosen), columns))
    return collages


def _collage(
    tiles: Sequence[Sequence[NDArray[Any]]], labels: tuple[int, ...], columns: int
) -> Collage:
    side = len(tiles[0][0])
    size = (len(tiles) // columns * side, columns * side)
    image, objects = np.empty((*size, 3), np.uint8), np.zeros(size, np.int64)
    boxes: list[Box] = []
    for number, (picture, mask) in enumerate(tiles):
        top, left = (side * place for place in divmod(number, columns))
        tile = np.s_[top : top + side, left : left + side]
        image[tile] = picture
        objects[tile][mask] = number + 1
        y, x = (places.tolist() for places in np.nonzero(mask))
        boxes.append((left + min(x), top + min(y), left + max(x) + 1, top + max(y) + 1))
    return Collage(image, objects, labels, tuple(boxes))


def _means(values: NDArray[Any], shrink: int) -> NDArray[np.float64]:
    """Means of blocks of pixels, of (H, W, ...) values."""
    high, wide = (n // shrink for n in values.shape[:2])
    blocks = values.reshape(high, shrink, wide, shrink, *values.shape[2:])
    means: NDArray[np.float64] = blocks.mean((1, 3), dtype=np.float64)
    return means
