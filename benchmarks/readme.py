"""The README's section on prices: two tables of the saved results, between two markers."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from .records import Record
from .tables import OURS, chosen, machine, newest, table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- python -m benchmarks.report cpu: begin -->", "<!-- end -->"
RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch", "tensorflow": "TensorFlow"}
BATCHES = (1, 8, 32)


def replaced(text: str, section: str) -> str:
    """Return the text with another section between its markers.

    Raises ValueError where a marker is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the table: write {BEGIN} and {END} into the README")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def section(environments: Sequence[Record], records: Sequence[Record]) -> str:
    """Return the tables as Markdown, with the machine and the dates."""
    every = newest(chosen(records, "gradcam", device=None))
    parts = [
        "Time of Grad-CAM, heatmaps included, over that of plain inference of the same network, by "
        "runtime and batch:",
        _ours([record for record in every if record["who"] == OURS]),
    ]
    if rows := _peers(every, chosen(records, "onnx-peers")):
        header = ["medians over the networks", *(f"batch {batch}" for batch in BATCHES)]
        parts += ["How many times as long others take as we do:", table(header, rows)]
    return "\n\n".join([*parts, machine(environments, records)])


def _ours(rows: Sequence[Record]) -> str:
    """A line a network, a column for each runtime and batch."""
    columns = [
        (framework, batch)
        for framework in RUNTIMES
        for batch in BATCHES
        if any((row["framework"], row["batch"]) == (framework, batch) for row in rows)
    ]
    ratios = {(row["model"], row["framework"], row["batch"]): row["ratio"] for row in rows}
    lines = [
        [model, *(_number(ratios.get((model, *column))) for column in columns)]
        for model in dict.fromkeys(row["model"] for row in rows)
    ]
    middle = [
        median(ratio for (_, *place), ratio in ratios.items() if tuple(place) == column)
        for column in columns
    ]
    header = ["network", *(f"{RUNTIMES[framework]}, {batch}" for framework, batch in columns)]
    return table(header, [*lines, ["median", *map(_number, middle)]])


def _peers(every: Sequence[Record], onnx: Sequence[Record]) -> list[list[str]]:
    """A line for each peer, and one for PyTorch's fastest beside ours by ONNX."""
    lines = []
    for framework in RUNTIMES:
        here = [r for r in every if r["framework"] == framework and r["who"] != OURS]
        for who in sorted({row["who"] for row in here}):
            slower: dict[int, list[float]] = {batch: [] for batch in BATCHES}
            for row in here:
                if row["who"] == who:
                    slower[row["batch"]].append(row["slower"])
            name = f"{who}, {RUNTIMES[framework]}"
            lines.append([name, *(_middle(values) for values in slower.values())])
    fastest: dict[tuple[int, str], float] = {}
    for row in onnx:
        place, times = (row["batch"], row["model"]), 1 / row["ratio"]
        fastest[place] = min(times, fastest.get(place, times))
    if fastest:
        of = [[t for (batch, _), t in fastest.items() if batch == b] for b in BATCHES]
        lines.append(["PyTorch's fastest beside ours by ONNX Runtime", *map(_middle, of)])
    return lines


def _middle(values: Sequence[float]) -> str:
    return _number(median(values)) if values else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
