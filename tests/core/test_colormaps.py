import numpy as np
import pytest

from gradcam_multi.colormaps import DEFAULT_COLORMAP, colorize, colormap_names, lookup_table
from gradcam_multi.errors import ImageError

# Entries of matplotlib's tables, times 255 and rounded.
PUBLISHED = {
    "inferno": {
        0: (0, 0, 4),
        3: (1, 1, 8),
        37: (41, 11, 85),
        64: (87, 16, 110),
        128: (188, 55, 84),
        191: (249, 140, 10),
        253: (249, 252, 157),
        255: (252, 255, 164),
    },
    "viridis": {
        0: (68, 1, 84),
        3: (69, 5, 89),
        37: (70, 51, 127),
        64: (59, 82, 139),
        128: (33, 145, 140),
        191: (92, 200, 99),
        253: (248, 230, 33),
        255: (253, 231, 37),
    },
    "turbo": {
        0: (48, 18, 59),
        3: (52, 27, 81),
        37: (71, 120, 240),
        64: (40, 188, 235),
        128: (164, 252, 60),
        191: (251, 129, 34),
        253: (129, 6, 2),
        255: (122, 4, 3),
    },
    "coolwarm": {
        0: (59, 76, 192),
        3: (62, 81, 197),
        37: (104, 138, 239),
        64: (141, 176, 254),
        128: (221, 220, 220),
        191: (244, 154, 123),
        253: (183, 13, 40),
        255: (180, 4, 38),
    },
}


def lightness(table):
    """CIE L* of sRGB colours, as IEC 61966-2-1 and CIE 15 define them."""
    c = table / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, y * (29 / 3) ** 3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_tables_are_the_published_ones(name):
    table = lookup_table(name).astype(int)
    for entry, colour in PUBLISHED[name].items():
        # One level: between the control points the tables are interpolated, then rounded.
        assert np.abs(table[entry] - colour).max() <= 1, entry


@pytest.mark.parametrize("name", ["inferno", "viridis", "gray"])
def test_lightness_rises_all_the_way(name):
    rise = np.diff(lightness(lookup_table(name)))
    # Rounding to 8 bits may lower the lightness by a fraction of a level, a quarter of a unit.
    assert rise.min() > -0.25
    assert (
        lightness(lookup_table(name))[::16][1:] > lightness(lookup_table(name))[::16][:-1]
    ).all()


def test_the_default_rises_from_dark_to_light():
    light = lightness(lookup_table(DEFAULT_COLORMAP))
    assert light[0] < 1
    assert light[-1] > 95


def test_the_diverging_map_is_lightest_in_the_middle_and_blue_below():
    table = lookup_table("coolwarm").astype(int)
    assert 120 <= lightness(table).argmax() <= 135
    assert table[0, 2] > table[0, 0]
    assert table[-1, 0] > table[-1, 2]


def test_jet_is_the_customary_formula():
    x = np.linspace(0, 1, 256)
    for channel, centre in enumerate((3, 2, 1)):
        expected = 255 * np.clip(1.5 - np.abs(4 * x - centre), 0, 1)
        # One level: the half of 255 at the corners is rounded in the table.
        assert np.abs(lookup_table("jet")[:, channel] - expected).max() <= 1


@pytest.mark.parametrize("name", colormap_names())
def test_colorize_is_a_lookup(name):
    heatmap = np.random.default_rng(0).random((2, 5, 7)).astype(np.float32)
    heatmap[0, 0, :2] = 0, 1
    table = lookup_table(name)
    expected = np.zeros((2, 5, 7, 3), np.uint8)
    for index in np.ndindex(heatmap.shape):
        expected[index] = table[int(heatmap[index] * np.float32(255) + np.float32(0.5))]
    colours = colorize(heatmap, name)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours, expected)


def test_colorize_takes_nan_as_zero_and_rounding_errors():
    colours = colorize(np.array([[np.nan, -1e-7, 1 + 1e-6]]))
    np.testing.assert_array_equal(colours[0], lookup_table()[[0, 0, 255]])
    assert colorize(np.zeros((0, 4, 4))).shape == (0, 4, 4, 3)


def test_colorize_refuses_what_it_cannot_show():
    for heatmap in ([[0, 2.0]], [[-1, 1.0]], [[0, np.inf]], [[np.nan, 7]], [0.5]):
        with pytest.raises(ImageError):
            colorize(heatmap)
    with pytest.raises(ImageError, match="did you mean 'viridis'"):
        colorize([[0.5]], "virids")


def test_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        lookup_table()[0] = 0
