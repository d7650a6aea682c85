"""What a page says of all its rows together: counts, and plots as plain numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BINS = 10
PLACES = 8  # rows and columns of the plot of peaks
_CLASSES = 12  # bars; further classes are one bar
SURE = 0.9
"""From this probability on a wrong answer counts as a sure one."""
FEW = 6
"""Fewer rows than this need no plots."""

KINDS = ("right", "wrong", "unknown")


@dataclass(frozen=True)
class Part:
    """One piece of a bar: which kind it counts, how many, and from where to where in [0, 1]."""

    kind: str
    count: int
    start: float
    extent: float


@dataclass(frozen=True)
class Bar:
    """A bar with its name and its pieces, side by side or one upon the other."""

    name: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        """How many rows the bar stands for."""
        return sum(part.count for part in self.parts)


@dataclass(frozen=True)
class Overview:
    """Counts and plots of encoded rows.

    `tiles` are pairs of a figure and what it says. `confidence` are bars of the shown class's
    probability in `BINS` steps, `classes` bars of the labels (of the shown classes where there are
    none), `peaks` how many peaks lie in each of `PLACES` x `PLACES` parts of what the model saw.
    """

    tiles: tuple[tuple[str, str], ...]
    confidence: tuple[Bar, ...] = ()
    classes: tuple[Bar, ...] = ()
    peaks: tuple[tuple[int, ...], ...] = ()
    by_label: bool = False

    @property
    def most_peaks(self) -> int:
        """The count of the part with most peaks; 0 where there is none."""
        return max((count for line in self.peaks for count in line), default=0)


def overview(rows: Sequence[dict[str, Any]]) -> Overview:
    """Count encoded rows, and lay out the plots where there are enough of them."""
    tiles = tuple(_tiles(rows))
    shown = [(row, row["classes"][row["shown"]]) for row in rows if row["classes"]]
    if len(shown) < FEW:
        return Overview(tiles)
    confident = [
        (min(int(each["p"] * BINS), BINS - 1), _kind(row))
        for row, each in shown
        if each["p"] is not None
    ]
    steps = {place: f"{place / BINS:g} to {(place + 1) / BINS:g}" for place in range(BINS)}
    labelled = any(row["label"] is not None for row, _ in shown)
    named = [
        ((row["label"] or "no label") if labelled else each["name"], _kind(row))
        for row, each in shown
    ]
    return Overview(
        tiles,
        tuple(_bars(confident, steps)) if confident else (),
        tuple(_bars(named, _largest(named))),
        _places([each["peak"] for _, each in shown if "peak" in each]),
        labelled,
    )


def _tiles(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    kinds = Counter(_kind(row) for row in rows)
    tiles = [(str(len(rows)), "picture" if len(rows) == 1 else "pictures")]
    judged = kinds["right"] + kinds["wrong"]
    if judged:
        tiles.append((f"{100 * kinds['right'] / judged:.1f} %", f"right of {judged} with a label"))
        sure = sum(
            row["correct"] is False and (row["classes"][row["shown"]]["p"] or 0) >= SURE
            for row in rows
            if row["classes"]
        )
        tiles.append((str(sure), f"wrong with a probability of {SURE} or more"))
    status = Counter(row["classes"][row["shown"]]["status"] for row in rows if row["classes"])
    tiles += [(str(n), f"maps: {name}") for name, n in status.most_common() if name != "ok"]
    failed = sum(row["error"] is not None for row in rows)
    if failed:
        tiles.append((str(failed), "could not be read"))
    return tiles


def _kind(row: dict[str, Any]) -> str:
    return "unknown" if row["correct"] is None else "right" if row["correct"] else "wrong"


def _largest(named: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The names of most rows, each its own; more than a plot holds are one."""
    counts = Counter(name for name, _ in named)
    kept = {name: name for name, _ in counts.most_common(_CLASSES)}
    rest = len(counts) - len(kept)
    return kept if not rest else {**kept, "": f"{rest} others"}


def _bars(pairs: Sequence[tuple[Any, str]], names: dict[Any, str]) -> list[Bar]:
    """Bars by key, in the order of `names`, scaled so that the longest has the extent 1."""
    other = "" if "" in names else None
    counts = Counter((key if key in names else other, kind) for key, kind in pairs)
    totals = {key: sum(counts[key, kind] for kind in KINDS) for key in names}
    longest = max(totals.values(), default=0) or 1
    bars = []
    for key, name in names.items():
        parts, start = [], 0.0
        for kind in KINDS:
            if counts[key, kind]:
                extent = counts[key, kind] / longest
                parts.append(Part(kind, counts[key, kind], start, extent))
                start += extent
        bars.append(Bar(name, tuple(parts)))
    return bars


def _places(peaks: Sequence[Sequence[float]]) -> tuple[tuple[int, ...], ...]:
    counts = Counter(
        tuple(min(int(share * PLACES), PLACES - 1) for share in peak) for peak in peaks
    )
    return tuple(tuple(counts[row, column] for column in range(PLACES)) for row in range(PLACES))
