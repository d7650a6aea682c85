from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont

from gradcam_multi.colormaps import lookup_table
from gradcam_multi.errors import ImageError
from gradcam_multi.overlay import overlay
from gradcam_multi.panel import PanelEntry, PanelRow, Scale, panel

RNG = np.random.default_rng(0)


def row(height, width, entries=1, title="photo.jpg", **text):
    image = RNG.integers(0, 256, (height, width, 3), np.uint8)
    heatmap = RNG.random((height, width)).astype(np.float32)
    text = {"label": "tabby cat", "score": 0.37, "method": "gradcam", "layer": "fire9", **text}
    return PanelRow(image, tuple(PanelEntry(heatmap, **text) for _ in range(entries)), title)


def find(sheet, part):
    """Return (y, x) of every place where the part stands in the sheet, pixel by pixel."""
    pixels, (h, w) = np.asarray(sheet), part.shape[:2]
    height, width = pixels.shape[:2]
    corners = (pixels[: height - h + 1, : width - w + 1] == part[0, 0]).all(-1)
    places = np.argwhere(corners).tolist()
    return [(y, x) for y, x in places if np.array_equal(pixels[y : y + h, x : x + w], part)]


def ink(strip):
    """Return whether each column of pixels holds anything but paper."""
    return (np.asarray(strip) < 250).any(axis=(0, 2))


def test_picture_and_overlays_stand_on_one_line_unscaled_where_they_fit():
    made = row(100, 140, entries=2)
    sheet = panel(made, height=100)
    (picture,) = find(sheet, made.image)
    first, second = find(sheet, overlay(made.image, made.entries[0].heatmap))
    assert picture[0] == first[0] == second[0]
    assert first[1] - picture[1] == second[1] - first[1] >= 140
    assert sheet.width - (second[1] + 140) == picture[1]  # the margins are the same


def test_rows_of_different_sizes_share_height_and_columns():
    made = [row(100, 140), row(100, 90, entries=2), row(100, 20)]
    sheet = panel(made, height=100)
    places = [find(sheet, r.image)[0] for r in made]
    overlays = [find(sheet, overlay(r.image, r.entries[0].heatmap))[0] for r in made]
    assert len({x for _, x in places}) == len({x for _, x in overlays}) == 1
    assert [y for y, _ in places] == [y for y, _ in overlays]
    scaled = panel([row(37, 50), row(300, 900)], height=64)
    assert scaled.width > 2 * 64 * 3  # 300 x 900 became 64 x 192, twice


def test_a_long_label_stays_within_its_column():
    short, long = row(100, 100, label="cat"), row(100, 100, label="wide " * 50)
    sheet = panel(long, height=100)
    assert sheet.size == panel(short, height=100).size
    (top, left), (_, right) = find(sheet, long.image) + find(
        sheet, overlay(long.image, long.entries[0].heatmap)
    )
    written = ink(sheet.crop((0, 0, sheet.width, top)))
    assert written[right : right + 100].any()
    assert not written[right + 100 :].any()  # the margin
    assert not written[left + 100 : right].any()  # the gap


def test_each_text_adds_what_it_needs():
    bare = {"title": "", "label": "", "score": None, "method": "", "layer": ""}
    plain, labelled = panel(row(100, 200, **bare), height=100), panel(row(100, 200), height=100)
    noted_row = row(100, 200, note="all_negative: try another target")
    noted = panel(noted_row, height=100)
    assert plain.height < labelled.height < noted.height
    ((top, left),) = find(noted, overlay(noted_row.image, noted_row.entries[0].heatmap))
    below = np.asarray(noted)[top + 100 :]
    warning = (np.abs(below.astype(int) - (176, 72, 16)).max(-1) < 10).any(0)
    assert warning[left:].any()
    assert not warning[:left].any()


def test_scores_are_written_as_a_reader_expects():
    from gradcam_multi.panel import _score

    written = {0.3721: "0.37", 1.0: "1.00", 17.4: "17.40", -3.2: "-3.20", 0.0: "0.00"}
    written |= {0.0004: "4e-04", None: "", float("nan"): ""}
    assert {score: _score(score) for score in list(written)[:-1]} == dict(
        list(written.items())[:-1]
    )
    assert _score(float("nan")) == ""


def test_shortening_and_wrapping_fit_the_width():
    from gradcam_multi.panel import _shortened, _wrapped

    font = ImageFont.load_default(14)
    text = "evidence against the target only; try another target, or method hirescam"
    for width in (0, 5, 20, 60, 150, 1000):
        cut = _shortened(text, font, width)
        assert font.getlength(cut) <= width
        assert cut in ("", text) or (cut.endswith("\u2026") and text.startswith(cut[:-1]))
        lines = _wrapped(text, font, width)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= width for line in lines)
    assert " ".join(_wrapped(text, font, 250)) == text
    assert _wrapped("", font, 100) == []


def test_letters_that_the_built_in_font_lacks_are_spelled_out():
    from gradcam_multi.panel import _ascii

    assert (
        _ascii("K\u00e4sekuchen 3 \u00d7 4 \u2192 \u0141\u00f3d\u017a \u732b")
        == "Kasekuchen 3 x 4 -> ?odz ?"
    )
    panel(row(50, 50, label="K\u00e4se \u732b"), height=50)


def test_the_colour_bar_goes_from_less_to_more():
    for name in ("inferno", "coolwarm"):
        sheet = np.asarray(panel(row(60, 200), height=200, colormap=name))
        table = lookup_table(name)
        # Near the bottom, a row holds the table's colours in order, inside of the outline.
        for line in sheet[-40:]:
            order = [
                int(np.flatnonzero((line == table[e]).all(-1))[0])
                for e in (64, 128, 192)
                if (line == table[e]).all(-1).any()
            ]
            if len(order) >= 2:
                assert order == sorted(order)
                break
        else:
            pytest.fail("no colour bar was found")


def test_nan_shows_the_picture():
    image = RNG.integers(0, 256, (80, 120, 3), np.uint8)
    entry = PanelEntry(np.full((80, 120), np.nan), "cat")
    assert len(find(panel(PanelRow(image, (entry,)), height=80), image)) == 2


def test_a_picture_alone_is_a_panel():
    made = row(80, 120, entries=0)
    assert isinstance(panel(made, height=80), Image.Image)


def test_what_cannot_be_drawn_is_refused():
    for made, options, words in (
        ([], {}, "no rows"),
        (row(50, 50), {"height": 5}, "under 32"),
        (row(50, 50), {"font": "absent.ttf"}, "no font"),
        (row(50, 50), {"colormap": "x"}, "no colour map"),
        (PanelRow(np.zeros((5, 5, 3), np.uint8), (PanelEntry(np.zeros((4, 4))),)), {}, "restore"),
    ):
        with pytest.raises(ImageError, match=words):
            panel(made, **options)


def test_an_entry_may_have_a_scale_of_its_own():
    plain = row(100, 100, entries=2)
    scale = Scale("coolwarm", "minus", "plus", alpha=1.0)
    made = PanelRow(plain.image, (plain.entries[0], replace(plain.entries[1], scale=scale)))
    sheet = panel(made, height=100)
    coloured = overlay(made.image, made.entries[1].heatmap, alpha=1.0, colormap="coolwarm")
    (place,) = find(sheet, coloured)
    assert place[1] > find(sheet, overlay(made.image, made.entries[0].heatmap))[0][1]
    # A bar for each scale; without the second one there is one only.
    assert of_table(sheet, place, "inferno") > 5
    assert of_table(sheet, place, "coolwarm") > 5
    one = panel(plain, height=100)
    assert of_table(one, place, "inferno") > 5
    assert of_table(one, place, "coolwarm") == 0


def of_table(sheet, place, colormap):
    """Count the strong colours of a colour map that the foot of a sheet of 100 pixels holds."""
    foot = {tuple(pixel) for pixel in np.asarray(sheet)[place[0] + 100 :].reshape(-1, 3).tolist()}
    strong = {tuple(c) for c in lookup_table(colormap).tolist() if max(c) - min(c) > 60}
    return len(foot & strong)
