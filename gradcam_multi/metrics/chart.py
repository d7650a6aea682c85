"""An evaluation as bars: one chart a metric, one bar a method, drawn with Pillow alone."""

import math
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from gradcam_multi.metrics.evaluation import RANDOM, Evaluation, cell
from gradcam_multi.metrics.table import METRICS

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER = (255, 255, 255)
_INK = (28, 30, 34)
_SMALL_PRINT = (94, 99, 108)
_GRID = (222, 225, 229)
# Okabe and Ito's colours, told apart with any colour vision and in grey print.
_METHOD, _BEST, _BASELINE = (86, 180, 233), (230, 159, 0), (170, 172, 176)
_COLUMNS = 3


@dataclass(frozen=True)
class _Style:
    """Fonts, and distances in pixels."""

    title: _Font
    heading: _Font
    small: _Font
    bar: int = 20
    gap: int = 8
    plot: int = 260

    @classmethod
    def usual(cls) -> "_Style":
        """Pillow brings its font along, so no font need be installed."""
        title, heading, small = (ImageFont.load_default(size) for size in (22, 18, 15))
        return cls(title, heading, small)


def chart(evaluation: Evaluation, *, title: str = "") -> Image.Image:
    """Draw the means of all metrics, each on its own axis, with their standard errors.

    The best methods are orange, the random baseline grey. Methods stand in the same order in
    every chart, so that one can be followed through all.
    """
    style = _Style.usual()
    charts = [_chart(evaluation, metric, style) for metric in evaluation.metrics]
    columns = min(_COLUMNS, len(charts))
    rows = [charts[start : start + columns] for start in range(0, len(charts), columns)]
    width, height = charts[0].size
    heading = title or f"{len(evaluation)} items, layer {evaluation.layer}, {evaluation.backend}"
    margin, top = 28, 84
    across = max(columns * width, math.ceil(style.title.getlength(heading)))
    sheet = Image.new("RGB", (across + 2 * margin, top + len(rows) * height + margin), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, 20), heading, _INK, style.title)
    _legend(draw, (margin, 52), style)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet.paste(image, (margin + x * width, top + y * height))
    return sheet


def _legend(draw: ImageDraw.ImageDraw, at: tuple[int, int], style: _Style) -> None:
    x, y = at
    entries = ((_BEST, "best"), (_METHOD, "other methods"), (_BASELINE, "random maps"))
    for colour, text in entries:
        draw.rectangle((x, y + 3, x + 13, y + 16), fill=colour)
        draw.text((x + 19, y), text, _SMALL_PRINT, style.small)
        x += 19 + math.ceil(style.small.getlength(text)) + 22
    draw.text((x, y), "|--| standard error of the mean", _SMALL_PRINT, style.small)


def _chart(evaluation: Evaluation, metric: str, style: _Style) -> Image.Image:
    """Draw one metric: its name and direction, a bar a method, and the axis below."""
    methods = evaluation.methods
    names = math.ceil(max(style.small.getlength(name) for name in methods)) + 10
    numbers = math.ceil(style.small.getlength("-0.000")) + 10
    top, step = 54, style.bar + style.gap
    bottom = top + step * len(methods)
    image = Image.new("RGB", (names + style.plot + numbers + 28, bottom + 44), _PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((0, 0), metric, _INK, style.heading)
    asked = f"{METRICS[metric].better} is better, {evaluation.count(metric)} items"
    draw.text((0, 25), asked, _SMALL_PRINT, style.small)

    low, high = _axis(evaluation, metric)
    marks = _marks(low, high)
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9))

    def place(value: float) -> float:
        return names + (value - low) / (high - low) * (style.plot - 1)

    for mark in marks:
        x = round(place(mark))
        draw.line((x, top - 4, x, bottom), fill=_GRID)
        text = f"{mark:.{digits}f}"
        draw.text(
            (x - style.small.getlength(text) / 2, bottom + 4), text, _SMALL_PRINT, style.small
        )
    best = evaluation.best(metric)
    for number, method in enumerate(methods):
        y, value = top + number * step, evaluation.mean(method, metric)
        name_at = names - 8 - style.small.getlength(method)
        draw.text((name_at, y + 1), method, _INK, style.small)
        if math.isnan(value):
            draw.text((place(max(low, 0.0)) + 6, y + 1), "-", _SMALL_PRINT, style.small)
            continue
        colour = _BASELINE if method == RANDOM else _BEST if method in best else _METHOD
        ends = sorted((place(max(low, 0.0)), place(value)))
        draw.rectangle((*_whole(ends[0], y), *_whole(ends[1], y + style.bar - 1)), fill=colour)
        error = evaluation.error(method, metric)
        reach = ends[1]
        if not math.isnan(error):
            ends = [place(min(max(edge, low), high)) for edge in (value - error, value + error)]
            _whisker(draw, ends[0], ends[1], y + style.bar // 2)
            reach = max(reach, ends[1])
        draw.text((reach + 7, y + 1), cell(value), _INK, style.small)
    zero = round(place(max(low, 0.0)))
    draw.line((zero, top - 4, zero, bottom), fill=_INK)
    return image


def _whole(x: float, y: float) -> tuple[int, int]:
    return round(x), round(y)


def _whisker(draw: ImageDraw.ImageDraw, left: float, right: float, y: int) -> None:
    draw.line((left, y, right, y), fill=_INK)
    for x in (left, right):
        draw.line((x, y - 4, x, y + 4), fill=_INK)


def _axis(evaluation: Evaluation, metric: str) -> tuple[float, float]:
    """The ends of the axis: zero and the metric's bound, or less where all values are small."""
    means = [evaluation.mean(method, metric) for method in evaluation.methods]
    errors = [evaluation.error(method, metric) for method in evaluation.methods]
    reach = [
        value + side * (0 if math.isnan(error) else error)
        for value, error in zip(means, errors, strict=True)
        for side in (-1, 1)
        if not math.isnan(value)
    ]
    info = METRICS[metric]
    step = _step(min(reach, default=0.0), max(reach, default=1.0))
    high = min(max(1, math.ceil(max([*reach, 0.0]) / step - 1e-9)) * step, info.high)
    # Of a metric that is never negative, only an error bar reaches below zero.
    low = max(math.floor(min([*reach, 0.0]) / step + 1e-9) * step, info.low)
    return low, high


def _step(low: float, high: float) -> float:
    """The distance of marks: 1, 2 or 5 times a power of ten, at most six of them from 0 on."""
    span = max(high, 0.0) - min(low, 0.0) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 6))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= span / 6 * (1 - 1e-9))


def _marks(low: float, high: float) -> list[float]:
    """Two to eight round numbers on the axis, zero among them."""
    step = _step(low, high)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [step * number for number in range(first, last + 1)]
