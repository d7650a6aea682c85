import numpy as np
import pytest

from gradcam_multi.colormaps import colormap_names, lookup_table
from gradcam_multi.errors import ImageError
from gradcam_multi.overlay import overlay

RNG = np.random.default_rng(0)


def reference(image, heatmap, alpha, colormap):
    table, out = lookup_table(colormap).astype(float), np.zeros(image.shape)
    for y, x in np.ndindex(heatmap.shape):
        if np.isnan(heatmap[y, x]):
            out[y, x] = image[y, x]
        else:
            colour = table[int(heatmap[y, x] * np.float32(255) + np.float32(0.5))]
            out[y, x] = (1 - alpha) * image[y, x] + alpha * colour
    return out


@pytest.mark.parametrize("alpha", [0, 0.3, 0.5, 0.77, 1])
@pytest.mark.parametrize("colormap", colormap_names())
def test_overlay_is_the_blend(alpha, colormap):
    image = RNG.integers(0, 256, (97, 203, 3), np.uint8)  # more than one block of pixels
    heatmap = RNG.random((97, 203)).astype(np.float32)
    heatmap[0, :3] = 0, 1, np.nan
    heatmap[40:50] = np.nan
    out = overlay(image, heatmap, alpha=alpha, colormap=colormap)
    assert out.dtype == np.uint8
    # Half a level for rounding, half a level for alpha in steps of 1 / 256.
    assert np.abs(out - reference(image, heatmap, alpha, colormap)).max() <= 1
    np.testing.assert_array_equal(out[40:50], image[40:50])
    assert not np.shares_memory(out, image)


def test_the_ends_of_alpha_are_exact():
    image = RNG.integers(0, 256, (20, 30, 3), np.uint8)
    heatmap = RNG.random((20, 30)).astype(np.float32)
    np.testing.assert_array_equal(overlay(image, heatmap, alpha=0), image)
    full = overlay(image, heatmap, alpha=1, colormap="gray")
    np.testing.assert_array_equal(
        full[..., 0], np.floor(heatmap * np.float32(255) + np.float32(0.5))
    )


def test_the_picture_is_never_stretched():
    dull = np.full((8, 8, 3), 100, np.uint8)
    dull[0, 0] = 101
    out = overlay(dull, np.zeros((8, 8)), alpha=0.5, colormap="gray")
    assert set(np.unique(out)) == {50, 51}


def test_leading_axes_broadcast():
    images = RNG.integers(0, 256, (3, 16, 12, 3), np.uint8)
    heatmaps = RNG.random((3, 16, 12)).astype(np.float32)
    heatmaps[1, 2] = np.nan
    each = [overlay(image, heatmap) for image, heatmap in zip(images, heatmaps, strict=True)]
    np.testing.assert_array_equal(overlay(images, heatmaps), each)
    one = [overlay(images[0], heatmap) for heatmap in heatmaps]
    np.testing.assert_array_equal(overlay(images[0], heatmaps), one)
    assert overlay(images[:0], heatmaps[:0]).shape == (0, 16, 12, 3)
    np.testing.assert_array_equal(
        overlay(images[:, ::-1, ::2], heatmaps[:, ::-1, ::2])[0],
        overlay(images[0][::-1, ::2], heatmaps[0][::-1, ::2]),
    )


@pytest.mark.parametrize(
    ("image", "heatmap", "options", "words"),
    [
        (np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4)), {}, "Geometry.restore"),
        (np.zeros((4, 5, 3)), np.zeros((4, 5)), {}, "load_image"),
        (np.zeros((4, 5), np.uint8), np.zeros((4, 5)), {}, "load_image"),
        (np.zeros((4, 5, 3), np.uint8), np.full((4, 5), 2.0), {}, r"lies in \[0, 1\]"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5)), {"alpha": 1.5}, "alpha"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5)), {"colormap": "x"}, "no colour map"),
        (np.zeros((2, 4, 5, 3), np.uint8), np.zeros((3, 4, 5)), {}, "do not go together"),
    ],
)
def test_what_does_not_fit_is_refused(image, heatmap, options, words):
    with pytest.raises(ImageError, match=words) as error:
        overlay(image, heatmap, **options)
    assert "\n" not in str(error.value)
