"""Pictures and their overlays side by side, with labels, scores and a colour bar."""

import math
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from gradcam_multi.colormaps import DEFAULT_COLORMAP, colorize
from gradcam_multi.errors import ImageError
from gradcam_multi.overlay import overlay

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER = (255, 255, 255)
_INK = (28, 30, 34)
_SMALL_PRINT = (108, 113, 122)
_WARNING = (176, 72, 16)
_HAIRLINE = (214, 217, 222)
_ELLIPSIS = "\u2026"


@dataclass(frozen=True)
class Scale:
    """What the colours of an overlay mean: the colour map, and the words at the ends of its bar.

    `alpha` is that of `overlay`, None for the panel's.
    """

    colormap: str
    low: str = "less"
    high: str = "more evidence"
    alpha: float | None = None


@dataclass(frozen=True, eq=False)
class PanelEntry:
    """One overlay: a heatmap over the row's picture, and what is written above it.

    `heatmap` is (H, W) in [0, 1], of the picture's size, NaN where it says nothing. `label` is
    what was explained and `score` how sure the network was; `note` is drawn as a warning, for a
    heatmap that is not what it seems (a status other than ok). `scale` is its own where its colours
    mean something else than those of the panel.
    """

    heatmap: ArrayLike
    label: str = ""
    score: float | None = None
    method: str = ""
    layer: str = ""
    note: str = ""
    scale: Scale | None = None


@dataclass(frozen=True, eq=False)
class PanelRow:
    """One picture, (H, W, 3) uint8 RGB, and its overlays from left to right."""

    image: NDArray[np.uint8]
    entries: tuple[PanelEntry, ...]
    title: str = ""
    subtitle: str = ""


@dataclass(frozen=True)
class _Cell:
    """A scaled picture and its text: heading, score and small print above it, a note below."""

    picture: Image.Image
    heading: str
    score: str = ""
    small: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Style:
    """Fonts and distances in pixels, all following from the height of a picture."""

    heading: _Font
    small: _Font
    margin: int
    gap: int
    leading: int

    @classmethod
    def of(cls, height: int, font: str | os.PathLike[str] | None) -> "_Style":
        sizes = max(12, round(height / 15)), max(10, round(height / 20))
        if font is None:  # Pillow brings this one along, so no font need be installed
            heading, small = (ImageFont.load_default(size) for size in sizes)
        else:
            try:
                heading, small = (ImageFont.truetype(os.fspath(font), size) for size in sizes)
            except OSError as error:
                raise ImageError(f"no font in {os.fspath(font)!r}: give a .ttf file") from error
        unit = max(4, round(height / 28))
        return cls(heading, small, margin=3 * unit, gap=2 * unit, leading=max(2, unit // 2))


def panel(
    rows: PanelRow | Iterable[PanelRow],
    *,
    height: int = 256,
    alpha: float = 0.5,
    colormap: str = DEFAULT_COLORMAP,
    font: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw rows of picture | overlay | overlay ..., each scaled to `height` pixels.

    Above each overlay stand its label and score, then method and layer in small print; below it
    its note. A label too long for its column ends in an ellipsis; the score is always whole.
    Columns are aligned from row to row, and at the foot stands a bar for each scale of colours.
    Pillow's own font, the default, has ASCII letters only: accents are left out and other letters
    become question marks; `font` is a TrueType file that has more.

    Raises ImageError without rows, for a height under 32, for a font that cannot be read, and for
    what `overlay` refuses.
    """
    rows = [rows] if isinstance(rows, PanelRow) else list(rows)
    if not rows:
        raise ImageError("a panel of no rows: give at least one picture")
    if height < 32:
        raise ImageError(f"a panel's height is {height} pixels: nothing could be read under 32")
    style = _Style.of(height, font)
    table = [_cells(row, height, alpha, colormap, plain=font is None) for row in rows]
    # A column is as wide as its widest picture, and never too narrow to write above it.
    widths = [
        max(round(0.75 * height), *(row[c].picture.width for row in table if c < len(row)))
        for c in range(max(map(len, table)))
    ]
    strips = [_row(cells, widths, height, style) for cells in table]
    scales = [entry.scale or Scale(colormap) for row in rows for entry in row.entries]
    bars = [
        _colour_bar(style, height, scale) for scale in dict.fromkeys(scales or [Scale(colormap)])
    ]
    bar = _side_by_side(bars, 2 * style.gap)
    margin, gap, between = style.margin, style.gap, round(1.5 * style.gap)
    across = max(strips[0].width, bar.width)
    down = sum(strip.height + between for strip in strips) - between + gap + bar.height
    sheet = Image.new("RGB", (across + 2 * margin, down + 2 * margin), _PAPER)
    y = margin
    for strip in strips:
        sheet.paste(strip, (margin, y))
        y += strip.height + between
    # The bar explains the overlays, so it begins where they do, if there is room.
    left = margin + (widths[0] + gap if len(widths) > 1 else 0)
    at = (max(margin, min(left, margin + across - bar.width)), sheet.height - margin - bar.height)
    sheet.paste(bar, at)
    return sheet


def _cells(row: PanelRow, height: int, alpha: float, colormap: str, plain: bool) -> list[_Cell]:
    """Return the cells of a row: the picture's, then one for each entry."""
    letters = _ascii if plain else str
    name = letters(row.title) or "picture"
    cells = [_Cell(_scaled(row.image, height), name, small=letters(row.subtitle))]
    for entry in row.entries:
        scale = entry.scale or Scale(colormap)
        opacity = alpha if scale.alpha is None else scale.alpha
        blended = overlay(row.image, entry.heatmap, alpha=opacity, colormap=scale.colormap)
        made_by = "  \u00b7  ".join(letters(part) for part in (entry.method, entry.layer) if part)
        texts = letters(entry.label), _score(entry.score), made_by, letters(entry.note)
        cells.append(_Cell(_scaled(blended, height), *texts))
    return cells


def _scaled(pixels: NDArray[np.uint8], height: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _row(cells: list[_Cell], widths: list[int], height: int, style: _Style) -> Image.Image:
    """Draw one row: text, pictures on one line, and the notes under them."""
    large, small = _line_height(style.heading), _line_height(style.small)
    above = large + 2 * style.leading
    if any(cell.small for cell in cells):
        above += small + style.leading
    notes = [
        _wrapped(cell.note, style.small, width)
        for cell, width in zip(cells, widths[: len(cells)], strict=True)
    ]
    below = max(map(len, notes)) * (small + style.leading)
    size = (sum(widths) + style.gap * (len(widths) - 1), above + height + below)
    strip = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(strip)
    x = 0
    for cell, note, width in zip(cells, notes, widths[: len(cells)], strict=True):
        _write_heading(draw, x, cell, width, style.heading)
        made_by = _shortened(cell.small, style.small, width)
        draw.text((x, large + style.leading), made_by, _SMALL_PRINT, style.small)
        strip.paste(cell.picture, (x, above))
        for number, line in enumerate(note):
            y = above + height + style.leading + number * (small + style.leading)
            draw.text((x, y), line, _WARNING, style.small)
        x += width + style.gap
    return strip


def _write_heading(draw: ImageDraw.ImageDraw, x: int, cell: _Cell, width: int, font: _Font) -> None:
    """Write label and score; the label gives way where both are too long."""
    space = font.getlength(" ") if cell.score else 0
    label = _shortened(cell.heading, font, width - font.getlength(cell.score) - space)
    draw.text((x, 0), label, _INK, font)
    past = font.getlength(label) + space if label else 0
    draw.text((x + past, 0), cell.score, _SMALL_PRINT, font)


def _score(score: float | None) -> str:
    """Two decimals, but never 0.00 for a score that is not zero; nothing for none and NaN."""
    if score is None or math.isnan(score):
        return ""
    return f"{score:.2f}" if abs(score) >= 0.005 or score == 0 else f"{score:.0e}"


def _ascii(text: str) -> str:
    """Return the text in letters that Pillow's own font has, without accents."""
    signs = {"\u00d7": "x", "\u2013": "-", "\u2014": "-", "\u2192": "->", "\u00df": "ss"}
    parts = unicodedata.normalize("NFKD", "".join(signs.get(sign, sign) for sign in text))
    kept = (sign for sign in parts if not unicodedata.combining(sign))
    return "".join(sign if sign.isascii() else "?" for sign in kept)


def _line_height(font: _Font) -> int:
    # The same for every line of a font, whatever its letters, so that baselines are aligned.
    return math.ceil(font.getbbox("Ag|")[3])


def _shortened(text: str, font: _Font, width: float) -> str:
    """Return the text on one line, cut to the width with an ellipsis where it is too long."""
    if font.getlength(text) <= width:
        return text
    for end in range(len(text) - 1, 0, -1):
        cut = text[:end].rstrip(" ,;:") + _ELLIPSIS
        if font.getlength(cut) <= width:
            return cut
    return ""


def _wrapped(text: str, font: _Font, width: float, most: int = 3) -> list[str]:
    """Return the text in lines no wider than the width, the last of at most `most` shortened."""
    words, lines = text.split(), list[str]()
    while words and len(lines) < most - 1:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(_shortened(" ".join(words[:count]), font, width))
        del words[:count]
    return [*lines, _shortened(" ".join(words), font, width)] if words else lines


def _side_by_side(bars: list[Image.Image], gap: int) -> Image.Image:
    size = (sum(bar.width + gap for bar in bars) - gap, max(bar.height for bar in bars))
    image, x = Image.new("RGB", size, _PAPER), 0
    for bar in bars:
        image.paste(bar, (x, 0))
        x += bar.width + gap
    return image


def _colour_bar(style: _Style, height: int, scale: Scale) -> Image.Image:
    """Draw "less [colours] more evidence", as wide as a square picture."""
    before, after = scale.low, scale.high
    font, pad, line = style.small, 2 * style.leading, _line_height(style.small)
    ends = [math.ceil(font.getlength(text)) for text in (before, after)]
    length = max(height // 4, height - sum(ends) - 2 * pad)
    image = Image.new("RGB", (sum(ends) + length + 2 * pad, line), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), before, _SMALL_PRINT, font)
    draw.text((ends[0] + length + 2 * pad, 0), after, _SMALL_PRINT, font)
    # The bar stands as high as the letters: from a capital's top to the baseline.
    top, bottom = (round(font.getbbox("M")[edge]) for edge in (1, 3))
    ramp = np.broadcast_to(np.linspace(0, 1, length, dtype=np.float32), (bottom - top, length))
    image.paste(Image.fromarray(colorize(ramp, scale.colormap)), (ends[0] + pad, top))
    edge = (ends[0] + pad, top, ends[0] + pad + length - 1, bottom - 1)
    draw.rectangle(edge, outline=_HAIRLINE)
    return image
