"""The core alone: maps made heatmaps, coloured and laid over pictures, beside OpenCV and Pillow."""

import numpy as np
import pytest
from PIL import Image

from gradcam_multi import overlay
from gradcam_multi.cam import rescale
from gradcam_multi.colormaps import colorize
from gradcam_multi.resize import resize

cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")

RNG = np.random.default_rng(0)
COUNT = 1000
SIZES = {"224x224": (224, 224), "1080p": (1080, 1920)}


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
    np.testing.assert_allclose(rescale(resize(maps, (224, 224))), opencv(), atol=1e-5)
    times = turns(lambda: rescale(resize(maps, (224, 224))), {"opencv": opencv, "pillow": pillow})
    record_turns("core", times, plain="opencv", method="heatmaps", size=f"{COUNT} of 224x224")


@pytest.mark.parametrize("size", SIZES)
def test_overlay(size, turns, record_turns):
    """A heatmap coloured and blended with a picture."""
    height, width = SIZES[size]
    picture = RNG.integers(0, 256, (height, width, 3), np.uint8)
    heatmap = RNG.random((height, width), np.float32)

    def opencv() -> np.ndarray:
        coloured = cv2.applyColorMap(np.uint8(255 * heatmap), cv2.COLORMAP_INFERNO)
        return cv2.addWeighted(picture, 0.5, coloured, 0.5, 0)

    times = turns(lambda: overlay(picture, heatmap), {"opencv": opencv})
    record_turns("core", times, plain="opencv", method="overlay", size=size)


@pytest.mark.parametrize("size", SIZES)
def test_colours(size, turns, record_turns):
    heatmap = RNG.random(SIZES[size], np.float32)
    times = turns(
        lambda: colorize(heatmap),
        {"opencv": lambda: cv2.applyColorMap(np.uint8(255 * heatmap), cv2.COLORMAP_INFERNO)},
    )
    record_turns("core", times, plain="opencv", method="colours", size=size)
