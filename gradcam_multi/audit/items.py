"""One picture of an audit: what it is called, where its bytes are, what is known of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import ImageError
from gradcam_multi.geometry import Geometry
from gradcam_multi.images import load_image
from gradcam_multi.spec import Array

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the picture, the last two exclusive."""


@dataclass(frozen=True, slots=True)
class Span:
    """A picture's bytes within a file: an uncompressed tar's member."""

    file: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Item:
    """A picture by its name in the audit, and its content: a file's path, bytes, or a span.

    `label` is the class's name or index, as the source gives it. A `content` of None is a picture
    that the source names and does not hold.
    """

    path: str
    content: str | bytes | Span | NDArray[np.uint8] | None
    label: str | None = None
    box: Box | None = None


@dataclass(frozen=True)
class Decoded:
    """A picture that was read, where in it the model's input lies, or why there is none."""

    item: Item
    geometry: Geometry | None = None
    error: str | None = None


@dataclass(frozen=True)
class Batch:
    """Pictures, and those that could be read as the model takes them, (N, ...) in their order."""

    pictures: Sequence[Decoded]
    arrays: Array


def read_picture(item: Item) -> NDArray[np.uint8]:
    """Read an item as (H, W, 3) uint8 RGB; raise ImageError where that cannot be done."""
    content = item.content
    if content is None:
        raise ImageError(f"{item.path!r} holds no picture: the source has no value there")
    if isinstance(content, str) and not os.path.exists(content):
        # load_image would look for similar names, each time, in what may be a million files.
        raise ImageError(f"no picture {content!r}: the file does not exist")
    if isinstance(content, str):
        return load_image(content)
    try:
        return load_image(_bytes(content) if isinstance(content, Span) else content)
    except OSError as error:
        raise ImageError(f"cannot read {item.path!r}: {error.strerror or error}") from error
    except ImageError as error:
        raise ImageError(f"{item.path!r}: {error}") from error


def _bytes(span: Span) -> bytes:
    with open(span.file, "rb") as file:
        file.seek(span.offset)
        return file.read(span.size)
