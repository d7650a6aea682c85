"""Reading pictures: every source becomes (H, W, 3) uint8 RGB, or an ImageError of one line.

What is done to the pixels, in this order, and nothing else:

1. The first frame of an animation or of a file of several pages is taken.
2. Values become 8-bit. 16-bit values are divided by 257 and rounded, floats are taken as [0, 1]
   and multiplied by 255, 32-bit integers are taken as 16-bit values that a wider type holds.
   Nothing is clipped: a value outside of its range is refused. 16-bit RGB files are the exception
   that Pillow makes: it keeps the upper byte of each value, at most one level from value / 257.
3. Greyscale, palette, CMYK, YCbCr and HSV pictures become RGB as Pillow converts them.
4. Transparent pixels are composited over the background, white unless told otherwise.
5. The EXIF orientation is applied.
"""

import glob
import os
import re
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from gradcam_multi.errors import ImageError, suggest
from gradcam_multi.exif import TURN, orientation_of

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | NDArray[Any]

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
}
"""Pillow's name of each format that is read, and the file suffixes that it goes by. Formats that
run other programs (EPS) or have no signature to know them by (TGA) are left out."""

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

MAX_PIXELS = 89_478_485
"""The default limit of width times height: 256 MiB as RGB, where Pillow begins to warn."""


def load_image(
    source: ImageSource,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
) -> NDArray[np.uint8]:
    """Read one picture as a (H, W, 3) uint8 RGB array that the caller owns.

    `source` is a path, the bytes of a file, a binary file object (read from its start), a Pillow
    image, or an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of bool, uint8, uint16
    or floats in [0, 1]. The module says what is done to the pixels.

    Raises ImageError where there is no picture, or a damaged one, or one of more than
    `max_pixels`; a file's size is known from its header, before anything is decoded.
    """
    if isinstance(source, np.ndarray):
        _check_size(source.shape[1::-1], "the array", max_pixels)
        pixels, orientation = source, 1
        name = f"the array {source.shape}"
    elif isinstance(source, Image.Image):
        name = "the Pillow image"
        _check_size(source.size, name, max_pixels)
        pixels, orientation = _decode(source, name)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name = f"the picture of {len(source)} bytes"
        pixels, orientation = _read(BytesIO(source), name, max_pixels)
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        name = f"the picture {str(path)!r}"
        try:
            with path.open("rb") as file:
                pixels, orientation = _read(file, name, max_pixels)
        except (OSError, ValueError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(_why_unopened(path, error)) from error
    elif hasattr(source, "read"):
        name = f"the picture in {getattr(source, 'name', 'the file object')!r}"
        pixels, orientation = _read(source, name, max_pixels)
    else:
        raise ImageError(
            f"cannot read a picture from {type(source).__name__}: give a path, the bytes of a "
            "file, a binary file object, a Pillow image or a NumPy array"
        )
    rgb = _composite(_to_8_bit(pixels, name), name, background)
    return np.array(TURN[orientation](rgb), order="C")


def find_images(paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str]) -> list[Path]:
    """List the picture files that files, folders and glob patterns stand for.

    A file is taken whatever its suffix; a folder gives the pictures directly in it, by suffix,
    hidden files left out; a pattern (``*``, ``?``, ``[...]``, ``**``) gives what it matches. The
    arguments keep their order, each one's files are in natural order (``2.png`` before
    ``10.png``), and a file that is named twice comes once.

    Raises ImageError where an argument stands for nothing.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.is_dir():
            files = _in_folder(path)
        elif path.exists():
            files = [path]
        elif glob.has_magic(str(path)):
            matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
            files = [match for match in matches if match.is_file()]
            if not files:
                raise ImageError(
                    f"no file matches the pattern {str(path)!r}: check it, or give a folder"
                )
            files.sort(key=_natural)
        else:
            raise ImageError(_why_unopened(path, FileNotFoundError()))
        found.update(dict.fromkeys(files))
    if not found:
        raise ImageError("no picture was given: name files, folders or glob patterns")
    return list(found)


def _in_folder(folder: Path) -> list[Path]:
    try:
        files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    except OSError as error:
        raise ImageError(f"cannot list the folder {str(folder)!r}: {error.strerror}") from error
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not pictures:
        others = sorted({path.suffix or path.name for path in files})[:5]
        holds = f"it holds only {', '.join(others)} files" if files else "it is empty"
        raise ImageError(
            f"no picture in the folder {str(folder)!r}: {holds}; give a folder with files that "
            "end in .jpg, .png, .webp, .bmp, .gif or .tif"
        )
    return sorted(pictures, key=_natural)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", str(path).lower())
    key = [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces]
    return [*key, (2, 0, str(path))]  # names that differ in case only still have one order


def _why_unopened(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        if re.match(r"[a-z]{2,}:/", str(path)):  # Path makes one slash of the two in "https://"
            return f"the picture {str(path)!r} is an address: download it, and give the file"
        folder = path.parent
        if not folder.is_dir():
            return f"no picture {str(path)!r}: there is no folder {str(folder)!r}"
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError:
            names = []
        hint = suggest(path.name, names, most=1) or "; check the path"
        return f"no picture {str(path)!r}: the file does not exist{hint}"
    if path.is_dir():
        return f"{str(path)!r} is a folder, not a picture: name a file in it"
    return f"cannot open the picture {str(path)!r}: {getattr(error, 'strerror', None) or error}"


def _check_size(size: tuple[int, ...], name: str, max_pixels: int) -> None:
    if len(size) != 2:
        raise ImageError(f"{name} is not a picture: give an array (H, W), (H, W, 3) or (H, W, 4)")
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: it is {width} wide and {height} high")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is too large: {width}x{height} is more than the limit of {max_pixels} pixels; "
            "make it smaller, or raise max_pixels if you trust it"
        )


def _read(file: BinaryIO, name: str, max_pixels: int) -> tuple[NDArray[Any], int]:
    """Open, check the size that the header states, and only then decode."""
    if not (hasattr(file, "seekable") and file.seekable()):
        file = BytesIO(file.read())
    file.seek(0)
    prefix = file.read(32)
    if isinstance(prefix, str):
        raise ImageError(f"{name} is opened as text: open it in binary mode ('rb')")
    if not prefix:
        raise ImageError(f"{name} is empty (0 bytes): give a picture file")
    image = _open(file, prefix[:16], name)
    with image:
        _check_size(image.size, name, max_pixels)
        return _decode(image, name)


def _open(file: BinaryIO, prefix: bytes, name: str) -> ImageFile.ImageFile:
    """Let the format whose signature the file begins with read its header.

    Image.open does the same, but warns of large pictures, or refuses them, by a limit that is one
    for the whole process, and tries formats that are not in the table.
    """
    if not FORMATS.keys() <= Image.OPEN.keys():
        Image.init()  # registers every format that Pillow has, once
    for format_name in FORMATS:
        factory, accepts = Image.OPEN.get(format_name, (None, None))
        if factory is None or accepts is None:
            continue
        verdict = accepts(prefix)
        if isinstance(verdict, str):  # the format is known, its decoder is not installed
            raise ImageError(f"cannot read {name}: {verdict}")
        if verdict:
            file.seek(0)
            try:
                return factory(file, "")
            except Exception as error:  # broken bytes make a decoder raise anything
                raise _damaged(name, error) from error
    raise ImageError(
        f"{name} is no picture that can be read: it begins with {prefix!r}; give a "
        f"{', '.join(FORMATS)} file"
    )


def _damaged(name: str, error: Exception) -> ImageError:
    said = " ".join(str(error).split()) or type(error).__name__
    return ImageError(f"{name} is damaged or cut short ({said}): get a whole copy of the file")


_AS_IT_IS = {"L", "RGB", "RGBA", "F", "I;16", "I;16B", "I;16L", "I;16N"}
"""Pillow's modes of which the array is taken without a conversion by Pillow."""


def _decode(image: Image.Image, name: str) -> tuple[NDArray[Any], int]:
    """Return the first frame as an array that `_to_8_bit` takes, and its EXIF orientation."""
    try:
        image.load()
    except Exception as error:  # broken bytes make a decoder raise anything
        raise _damaged(name, error) from error
    orientation = orientation_of(image)
    one_colour_is_clear = image.mode in ("L", "RGB") and "transparency" in image.info
    if image.mode in _AS_IT_IS and not one_colour_is_clear:
        return np.asarray(image), orientation
    if image.mode == "I":
        wide = np.asarray(image)
        low, high = int(wide.min()), int(wide.max())
        if low < 0 or high > 65535:
            raise ImageError(
                f"{name} has 32-bit values from {low} to {high}: scale them to 0..65535, or to "
                "0..255 as 8-bit, and save it again"
            )
        return wide.astype(np.uint16), orientation
    try:
        if image.mode == "La":  # it has no way to RGBA but through LA
            image = image.convert("LA")
        mode = "RGBA" if image.has_transparency_data else "RGB"
        return np.asarray(image.convert(mode)), orientation
    except ValueError as error:
        raise ImageError(
            f"{name} has the colour mode {image.mode}, which has no way to RGB: save it as RGB"
        ) from error


def _to_8_bit(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if pixels.dtype == np.uint8:
        return pixels
    if kind == "b":
        return pixels.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size == 2:
        # round(value / 257) in integers: 65535 is 255 * 257, and 257 is odd, so no ties.
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= -1e-6 and high <= 1 + 1e-6):  # false for NaN as well
            raise ImageError(
                f"{name} has floating-point values from {low:g} to {high:g}: scale them to "
                "[0, 1], or to 0..255 as uint8"
            )
        levels: NDArray[np.float32] = np.rint(pixels.astype(np.float32) * np.float32(255))
        return levels.astype(np.uint8)
    raise ImageError(
        f"{name} has values of type {pixels.dtype}: give uint8 (0..255), uint16 (0..65535) or "
        "floats in [0, 1]"
    )


def _composite(
    pixels: NDArray[np.uint8], name: str, background: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Return (H, W, 3): grey is repeated, alpha is laid over the background and rounded."""
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ImageError(f"{name} is not a picture: give an array (H, W), (H, W, 3) or (H, W, 4)")
    if pixels.shape[2] < 4:
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    alpha = pixels[..., 3:].astype(np.uint16)
    over = pixels[..., :3] * alpha + np.asarray(background, np.uint16) * (255 - alpha)
    over += np.uint16(127)  # rounds the division
    over //= np.uint16(255)
    rgb: NDArray[np.uint8] = over.astype(np.uint8)
    return rgb
