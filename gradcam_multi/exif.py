"""The EXIF orientation of a stored picture, read and applied."""

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TURN: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.swapaxes(0, 1),
    6: lambda rgb: rgb[::-1].swapaxes(0, 1),
    7: lambda rgb: rgb[::-1, ::-1].swapaxes(0, 1),
    8: lambda rgb: rgb[:, ::-1].swapaxes(0, 1),
}
"""What makes a stored picture upright, by the value of its EXIF orientation."""


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1..8; 1 where there is none or it cannot be read.

    The EXIF block is read here because Pillow's reader warns of the damaged blocks that many data
    sets hold. Pillow applies the orientation of TIFF files itself, and forgets it.
    """
    block = image.info.get("exif")
    if not isinstance(block, bytes):
        value = image.getexif().get(0x0112, 1)
        return value if value in TURN else 1
    block = block.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, entry)
            if tag == 0x0112:
                return value if value in TURN else 1
    except struct.error:
        pass  # a damaged block says nothing
    return 1
