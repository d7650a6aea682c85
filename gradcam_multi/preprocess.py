"""From a picture to the array a network takes, and from its heatmap back to the picture.

A `Preprocess` is plain data. What it says is done in this order:

1. channels: RGB becomes one channel of luma where "L" is asked (Pillow's ITU-R 601-2 weights).
2. resize: by Pillow, which averages where it makes smaller, as torchvision does for pictures.
   ``fit="whole"`` resizes the whole picture to the size, whatever its proportions.
   ``fit="crop"`` keeps the proportions and makes the picture just large enough to hold a box of
   size / `crop_ratio`, rounded down.
3. crop: the box of the size in the centre (``fit="crop"`` only).
4. channels: RGB becomes BGR where that is asked.
5. values: (pixel * scale - mean) / std for each channel, in the order of `channels`, computed in
   float64 for the 256 values a pixel can have and rounded to float32 once.
6. layout: (C, H, W) or (H, W, C).

For a square size and the ratio 224 / 256 = 0.875, step 2 and 3 are torchvision's Resize(256) and
CenterCrop(224), to the pixel; at 299 they are Resize(341) and CenterCrop(299), as timm has it.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradcam_multi.errors import PreprocessError, suggest
from gradcam_multi.geometry import Geometry
from gradcam_multi.spec import Layout

Fit = Literal["whole", "crop"]
Channels = Literal["RGB", "BGR", "L"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

DEFAULT_SIZE = (224, 224)
"""(H, W) where neither the preprocessing nor the model fixes one: that of most ImageNet models."""


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the input of a network; the module says in which order.

    `size` is (H, W), None for the model's own. `crop_ratio` is the side of the crop as a share of
    the resized picture's, and counts for ``fit="crop"`` only. `mean` and `std` are one number or
    one for each channel. `layout` is None for the model's own.

    Raises PreprocessError for a value that no preprocessing can have.
    """

    size: tuple[int, int] | None = None
    fit: Fit = "whole"
    crop_ratio: float = 0.875
    interpolation: Interpolation = "bilinear"
    channels: Channels = "RGB"
    scale: float = 1 / 255
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: Layout | None = None

    def __post_init__(self) -> None:
        """Check every field, and bring numbers and sequences to one form."""
        if self.size is not None:
            pair = _sequence("size", self.size)
            if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
                raise PreprocessError(
                    f"size is {self.size!r}: give two whole numbers [height, width], or null"
                )
            object.__setattr__(self, "size", pair)
        _choice("fit", self.fit, get_args(Fit))
        _choice("interpolation", self.interpolation, get_args(Interpolation))
        _choice("channels", self.channels, get_args(Channels))
        if self.layout is not None:
            _choice("layout", self.layout, get_args(Layout))
        for name in ("scale", "crop_ratio"):
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.scale == 0:
            raise PreprocessError("scale is 0: every picture would look the same")
        if not 0 < self.crop_ratio <= 1:
            raise PreprocessError(f"crop_ratio is {self.crop_ratio}: give a number in (0, 1]")
        for name in ("mean", "std"):
            given = getattr(self, name)
            single = isinstance(given, (int, float))
            numbers = [_number(name, n) for n in ([given] if single else _sequence(name, given))]
            if len(numbers) not in (1, len(self.channels)):
                raise PreprocessError(
                    f"{name} has {len(numbers)} numbers for {len(self.channels)} channels "
                    f"({self.channels}): give one number, or one for each channel"
                )
            # One number stays one, so that what is read is what is written.
            object.__setattr__(self, name, numbers[0] if single else tuple(numbers))
        if 0 in np.atleast_1d(self.std):
            raise PreprocessError(f"std is {self.std}: it divides, so it cannot be 0")

    @classmethod
    def named(cls, name: str | os.PathLike[str]) -> "Preprocess":
        """Return the preset of this name, or what the JSON file of this path says.

        Raises PreprocessError where it is neither.
        """
        if isinstance(name, str) and name in PRESETS:
            return PRESETS[name]
        path = Path(name)
        if path.suffix.lower() == ".json" or path.is_file():
            return cls.from_json(path)
        raise PreprocessError(
            f"no preprocessing {str(name)!r}{suggest(str(name), PRESETS, most=1)}; there are "
            f"{', '.join(PRESETS)}, or give a .json file"
        )

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> "Preprocess":
        """Read what `to_json` writes: a JSON text (it begins with a brace), or a file's path.

        Absent keys have their defaults. Raises PreprocessError for what is not JSON, for unknown
        keys and for impossible values.
        """
        if isinstance(source, str) and source.lstrip().startswith("{"):
            text, name = source, "the preprocessing"
        else:
            name = f"the preprocessing {str(source)!r}"
            try:
                text = Path(source).read_text(encoding="utf-8-sig")
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                raise PreprocessError(f"cannot read {name}: {why}; give a JSON file") from error
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            where = f"{error.msg}, line {error.lineno} column {error.colno}"
            raise PreprocessError(f"{name} is not JSON: {where}") from error
        if not isinstance(values, dict):
            raise PreprocessError(f"{name} is a JSON {type(values).__name__}: give an object")
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise PreprocessError(
                    f"{name} has the unknown key {key!r}{suggest(key, known, most=1)}; the keys "
                    f"are {', '.join(known)}"
                )
        return cls(**values)

    def to_json(self) -> str:
        """Return the preprocessing as a JSON object with every key; `from_json` reads it back."""
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in asdict(self).items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def apply(
        self,
        image: NDArray[np.uint8],
        *,
        size: tuple[int | None, int | None] | None = None,
        layout: Layout | None = None,
    ) -> tuple[NDArray[np.float32], Geometry]:
        """Return one network input without batch axis, and where in the picture it lies.

        `image` is (H, W, 3) uint8 RGB. `size` and `layout` are the model's own, with None where
        the model leaves them free: they fill in what the preprocessing leaves open. Where neither
        says, the size is `DEFAULT_SIZE` and the layout channels first.

        Raises PreprocessError where the preprocessing and the model disagree.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise PreprocessError(
                f"a picture is (H, W, 3) uint8, this one is {image.shape} {image.dtype}: read it "
                "with load_image"
            )
        if layout is not None and self.layout not in (None, layout):
            raise PreprocessError(
                f"the preprocessing gives {self.layout}, the model takes {layout}: leave out layout"
            )
        height, width = self._size(size)
        original = Image.fromarray(image)
        if self.channels == "L":
            original = original.convert("L")
        resized, geometry = self._fit(original, height, width)
        pixels = np.asarray(resized).reshape(height, width, len(self.channels))
        if self.channels == "BGR":
            pixels = pixels[..., ::-1]
        tables = self._tables()
        planes = [table[pixels[..., c]] for c, table in enumerate(tables)]
        last = (layout or self.layout) == "channels_last"
        return np.stack(planes, axis=-1 if last else 0), geometry

    def _size(self, model: tuple[int | None, int | None] | None) -> tuple[int, int]:
        own = self.size or (None, None)
        pairs = list(zip(own, model or (None, None), strict=True))
        if any(mine and theirs and mine != theirs for mine, theirs in pairs):
            raise PreprocessError(
                f"the preprocessing gives {own[0]}x{own[1]}, the model takes "
                f"{pairs[0][1] or 'any'}x{pairs[1][1] or 'any'} (height x width): leave out size"
            )
        height, width = (mine or theirs for mine, theirs in pairs)
        return height or width or DEFAULT_SIZE[0], width or height or DEFAULT_SIZE[1]

    def _fit(self, image: Image.Image, height: int, width: int) -> tuple[Image.Image, Geometry]:
        """Resize, and crop where asked; say which part of the picture is left."""
        how = Image.Resampling[self.interpolation.upper()]
        w, h = image.size
        if self.fit == "whole":
            box = (0.0, 0.0, float(h), float(w))
            return image.resize((width, height), how), Geometry((h, w), box)
        target_h = math.floor(height / self.crop_ratio)
        target_w = math.floor(width / self.crop_ratio)
        # The side that must grow more decides; the other follows, rounded down as torchvision's.
        if target_h * w >= target_w * h:
            target_w = int(target_h * w / h)
        else:
            target_h = int(target_w * h / w)
        # Python and torchvision round halves to even, so the offsets agree to the pixel.
        top, left = round((target_h - height) / 2), round((target_w - width) / 2)
        whole = image.resize((target_w, target_h), how)
        part = whole.crop((left, top, left + width, top + height))
        down, across = h / target_h, w / target_w
        box = (top * down, left * across, (top + height) * down, (left + width) * across)
        return part, Geometry((h, w), box)

    def _tables(self) -> NDArray[np.float32]:
        """Return (channels, 256) float32: what each pixel value becomes in each channel."""
        shape = (len(self.channels), 1)
        mean, std = (np.broadcast_to(np.reshape(v, (-1, 1)), shape) for v in (self.mean, self.std))
        pixels = np.arange(256, dtype=np.float64)
        values: NDArray[np.float64] = (pixels * self.scale - mean) / std
        return values.astype(np.float32)


def _sequence(name: str, value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise PreprocessError(f"{name} is {value!r}: give a list of numbers")
    return tuple(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PreprocessError(f"{name} is {value!r}: give a finite number")
    return float(value)


def _choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise PreprocessError(
            f"{name} is {value!r}{suggest(str(value), allowed, most=1)}; give one of "
            f"{', '.join(allowed)}"
        )


PRESETS: Mapping[str, Preprocess] = MappingProxyType(
    {
        "imagenet": Preprocess(fit="crop", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "caffe": Preprocess(channels="BGR", scale=1.0, mean=(104.0, 117.0, 123.0)),
        "tf": Preprocess(scale=1 / 127.5, mean=1.0),
        "unit": Preprocess(),
    }
)
"""By name: `imagenet` is torchvision's, a centre crop; `caffe` is BGR, 0..255 less the mean; `tf`
is [-1, 1]; `unit` is [0, 1]; the last three of the whole picture."""
