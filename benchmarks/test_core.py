"""The core alone: maps made heatmaps, coloured and laid over pictures, beside OpenCV and Pillow."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gradcam_multi import overlay
from gradcam_multi.cam import heatmaps
from gradcam_multi.colormaps import colorize

cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")

RNG = np.random.default_rng(0)
COUNT = 1000
SIZES = {"224x224": ((224, 224), COUNT), "1080p": ((1080, 1920), 8)}  # heatmaps, and how many


def test_heatmaps(turns, record_turns):
    """1,000 maps of 7x7 resized to 224x224 and scaled to [0, 1]."""
    maps = RNG.random((COUNT, 7, 7), np.float32)

    def scaled(large: np.ndarray) -> np.ndarray:
        large -= large.min()
        large /= large.max()
        return large

    def opencv() -> np.ndarray:
        return np.stack([scaled(cv2.resize(m, (224, 224))) for m in maps])

    def pillow() -> np.ndarray:
        size, how = (224, 224), Image.Resampling.BILINEAR
        return np.stack([scaled(np.array(Image.fromarray(m).resize(size, how))) for m in maps])

    # The same work: OpenCV's linear interpolation is ours.
    np.testing.assert_allclose(heatmaps(maps, (224, 224)), opencv(), atol=1e-5)
    times = turns(lambda: heatmaps(maps, (224, 224)), {"opencv": opencv, "pillow": pillow})
    record_turns("core", times, plain="opencv", method="heatmaps", size=f"{COUNT} of 224x224")


def by_opencv(heatmap: np.ndarray) -> np.ndarray:
    return cv2.applyColorMap(np.uint8(255 * heatmap), cv2.COLORMAP_INFERNO)


PALETTE = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO)[:, 0, ::-1]


def by_pillow(heatmap: np.ndarray) -> Image.Image:
    indexed = Image.fromarray(np.uint8(255 * heatmap))
    indexed.putpalette(PALETTE.tobytes())
    return indexed.convert("RGB")


def each(function: Callable[[np.ndarray], Any], heatmaps: np.ndarray) -> Callable[[], None]:
    """Return a call that takes one heatmap after another and keeps nothing."""

    def call() -> None:
        for heatmap in heatmaps:
            function(heatmap)

    return call


@pytest.mark.parametrize("size", SIZES)
def test_overlay(size, turns, record_turns):
    """Heatmaps coloured and blended with a picture."""
    (height, width), count = SIZES[size]
    picture = RNG.integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(picture)
    heatmaps = RNG.random((count, height, width), np.float32)
    others = {
        "opencv": each(lambda h: cv2.addWeighted(picture, 0.5, by_opencv(h), 0.5, 0), heatmaps),
        "pillow": each(lambda h: np.array(Image.blend(image, by_pillow(h), 0.5)), heatmaps),
    }
    times = turns(each(lambda h: overlay(picture, h), heatmaps), others)
    record_turns("core", times, plain="opencv", method="overlay", size=f"{count} of {size}")


@pytest.mark.parametrize("size", SIZES)
def test_colours(size, turns, record_turns):
    shape, count = SIZES[size]
    heatmaps = RNG.random((count, *shape), np.float32)
    others = {
        "opencv": each(by_opencv, heatmaps),
        "pillow": each(lambda h: np.array(by_pillow(h)), heatmaps),
    }
    times = turns(each(colorize, heatmaps), others)
    record_turns("core", times, plain="opencv", method="colours", size=f"{count} of {size}")
