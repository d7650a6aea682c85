"""A comparison as text."""

from pathlib import PurePath
from typing import Any

from gradcam_multi.comparison import Compared, Comparison
from gradcam_multi.pair import FIGURES, Pair, summary, top1_agreement

_ROWS = 20  # images listed for each model; of more, the worst


def comparison_table(comparison: Comparison) -> str:
    """Return a table for each other model, and the verdict."""
    lines = [f"reference {_described(comparison.reference)}; method {comparison.method}"]
    for other in comparison.others:
        lines += ["", *_model(comparison, other)]
    verdict = "passed" if comparison.passed else "FAILED"
    bounds = [
        f"{name} {bound:g}" for name, bound in vars(comparison.limits).items() if bound is not None
    ]
    lines += ["", f"{verdict}: {', '.join(bounds) or 'no limit'}"]
    return "\n".join([*lines, *comparison.failures])


def _described(model: Compared) -> str:
    return f"{model.name} ({model.backend}, layer {model.layer}, grid {_by(model.grid)})"


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _model(comparison: Comparison, other: Compared) -> list[str]:
    pairs = comparison.of(other.name)
    how = (
        f"raw maps on {_by(other.grid)}"
        if other.raw
        else f"maps resized to the reference's input, {_by(comparison.reference.input_size)}"
    )
    shown = (
        [p for p in comparison.ranked() if p.model == other.name] if len(pairs) > _ROWS else pairs
    )
    rows = [["", "top-1", *(figure.heading for figure in FIGURES), ""]]
    files = {PurePath(pair.image).name for pair in pairs}
    short = len(files) == len(pairs)  # without their folders, where that leaves them apart
    rows += [
        [PurePath(pair.image).name if short else pair.image, *_row(pair)] for pair in shown[:_ROWS]
    ]
    found = summary(pairs)
    for key in ("mean", "worst"):
        share = f"{top1_agreement(pairs):.0%}" if key == "mean" else ""
        cells = [_cell(f.format, (found[f.name] or {}).get(key)) for f in FIGURES]
        rows.append([key, share, *cells, ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(
            cell.ljust(n) if place in (0, len(row) - 1) else cell.rjust(n)
            for place, (cell, n) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    more = [f"(shown: the {_ROWS} worst of {len(pairs)} images)"] if len(pairs) > _ROWS else []
    return [f"{_described(other)}: {how}", *table, *more]


def _row(pair: Pair) -> list[str]:
    cells = [_cell(figure.format, pair.value(figure.name)) for figure in FIGURES]
    top = "same" if pair.top1_agrees else f"{pair.top1[0]}>{pair.top1[1]}"
    status = pair.agreement.status
    note = "" if status == "ok" else f"{status} ({pair.statuses[0]}, {pair.statuses[1]})"
    return [top, *cells, note]


def _cell(form: str, value: Any) -> str:
    return "-" if value is None else format(value, form)
