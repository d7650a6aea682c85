"""Turns saved results into tables and plots: python -m benchmarks.report [NAME].

Reads benchmarks/results/NAME.json ("cpu" where no name is given) and writes NAME.md and plots
beside it, each with the machine, the versions and the dates of what it shows. The README's tables
are those of "cpu".
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from .bounds import held
from .growth import FEWEST, fitted
from .records import RESULTS, Record, load
from .tables import OURS, chosen, grown, machine, newest, table

Section = Callable[[Sequence[Record]], list[str]]


def main(name: str = "cpu", folder: Path = RESULTS) -> None:
    environments, records = load(folder / f"{name}.json")
    if not records:
        raise SystemExit(f"no results in benchmarks/results/{name}.json: run tox -e bench first")
    from .plots import plot_growth, plot_prices

    parts = ["# What an explanation costs", *_preamble(environments, records)]
    for title, build in SECTIONS:
        if rows := build(records):
            parts += [f"## {title}", *rows]
    for plot, file, title in (
        (plot_prices, "prices", "Grad-CAM beside plain inference and beside other libraries"),
        (plot_growth, "growth", "Growth"),
    ):
        if plot(records, folder / f"{name}_{file}.png"):
            parts.append(f"![{title}]({name}_{file}.png)")
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n")
    if folder / name == RESULTS / "cpu":
        from .readme import README, replaced, section

        README.write_text(replaced(README.read_text(), section(environments, records)))
    print(f"wrote {name}.md")


def _preamble(environments: Sequence[Record], records: Sequence[Record]) -> list[str]:
    versions: dict[str, set[str]] = {}
    for environment in environments:
        for package, version in environment["versions"].items():
            versions.setdefault(package, set()).add(version)
    told = ", ".join(f"{p} {' and '.join(sorted(v))}" for p, v in sorted(versions.items()))
    how = (
        "Calls take turns in one process, on the same weights and pictures; figures are medians of "
        "the turns, ratios are to plain inference of the same model beside them, spreads are the "
        "quartiles of the ratio. Ours are timed up to the heatmaps at the picture's size."
    )
    return [how, machine(environments, records), f"Versions: {told}."]


def ratio(record: Record) -> str:
    low, high = record["spread"]
    return f"{record['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _priced(experiment: str) -> Section:
    """A table for each framework and batch, of all that records its price beside inference."""

    def build(records: Sequence[Record]) -> list[str]:
        parts = []
        for device in (None, "gpu"):
            every = newest(chosen(records, experiment, device=device, method="gradcam"))
            for framework in dict.fromkeys(record["framework"] for record in every):
                here = [record for record in every if record["framework"] == framework]
                for batch in sorted({record["batch"] for record in here}):
                    rows = [record for record in here if record["batch"] == batch]
                    place = f"{framework}{' on a GPU' if device else ''}, batch {batch}"
                    parts += _prices(place, rows)
        return parts

    return build


def _prices(title: str, rows: Sequence[Record]) -> list[str]:
    """One line a model: plain inference, ours, and how much more each peer takes than ours."""
    rows = [row for row in rows if row.get("size") is None]
    peers = [who for who in dict.fromkeys(row["who"] for row in rows) if who != OURS]
    lines, ratios = [], []
    slower: dict[str, list[float]] = {who: [] for who in peers}
    for model in dict.fromkeys(row["model"] for row in rows):
        found = {row["who"]: row for row in rows if row["model"] == model}
        if OURS not in found:
            continue
        ours = found[OURS]
        ratios.append(ours["ratio"])
        line = [model, f"{ours['plain']:.1f}", f"{ours['median']:.1f}", ratio(ours)]
        for who in peers:
            if who in found:
                slower[who].append(found[who]["slower"])
                line.append(f"{found[who]['slower']:.2f}")
            else:
                line.append("")
        lines.append(line)
    if not lines:
        return []
    middle = [f"{median(values):.2f}" if values else "" for values in slower.values()]
    lines.append(["median", "", "", f"{median(ratios):.2f}", *middle])
    unit = rows[0]["unit"]
    beside = (f"{who} / ours" for who in peers)
    header = ["model", f"inference {unit}", f"Grad-CAM {unit}", "ratio", *beside]
    return [f"**{title}**", table(header, lines)]


def _against(records: Sequence[Record]) -> list[str]:
    rows = chosen(records, "onnx-peers")
    lines = [
        [row["model"], str(row["batch"]), row["who"], f"{row['plain']:.1f}",
         f"{row['median']:.1f}", f"{1 / row['ratio']:.2f}"]
        for row in rows
    ]  # fmt: skip
    header = ["model", "batch", "PyTorch peer", "peer ms", "ours by ONNX ms", "peer / ours"]
    return [table(header, lines)] if lines else []


def _methods(records: Sequence[Record]) -> list[str]:
    rows = newest(chosen(records, "methods"))
    parts = []
    for framework in dict.fromkeys(row["framework"] for row in rows):
        here = [row for row in rows if row["framework"] == framework]
        lines = []
        for ours in (row for row in here if row["who"] == OURS):
            same = [r for r in here if r["method"] == ours["method"] and r["who"] != OURS]
            beside = ", ".join(f"{row['who']} {row['slower']:.2f}" for row in same)
            lines.append(
                [ours["method"], ours["model"], f"{ours['median']:.1f}", ratio(ours), beside]
            )
        header = ["method", "network", "ms", "ratio to inference", "slower than ours, times"]
        parts += [f"**{framework}**", table(header, lines)]
    return parts


def _listed(experiment: str, *columns: str, **about: object) -> Section:
    """A section that lists an experiment's records as they are."""

    def build(records: Sequence[Record]) -> list[str]:
        lines = [
            [*(str(row.get(name) or "") for name in columns), f"{row['plain']:.4g}",
             f"{row['median']:.4g}", row["unit"], ratio(row)]
            for row in newest(chosen(records, experiment, **about))
        ]  # fmt: skip
        header = [*columns, "beside", "ours", "unit", "ratio"]
        return [table(header, lines)] if lines else []

    return build


def _growth(records: Sequence[Record]) -> list[str]:
    lines = []
    for (framework, axis), rows in grown(records).items():
        if len(rows) < FEWEST:
            continue
        sizes = [row["size"] for row in rows]
        for what in ("median", "plain"):
            law = fitted(sizes, [row[what] for row in rows])
            whose = "Grad-CAM" if what == "median" else "inference"
            span = f"{min(sizes)} to {max(sizes)}"
            lines.append([
                framework, "pixels" if axis == "side" else axis, whose, span,
                f"{law.fixed:.2f}", f"{law.exponent:.2f} ({law.least:.2f} to {law.most:.2f})",
                f"{100 * law.error:.0f} %",
            ])  # fmt: skip
    header = [
        "framework",
        "what grows",
        "price",
        "sizes",
        "fixed ms",
        "exponent",
        "error of the fit",
    ]
    return [table(header, lines)] if lines else []


SECTIONS: tuple[tuple[str, Section], ...] = (
    ("What is asked", held),
    ("Grad-CAM", _priced("gradcam")),
    ("The ONNX adapter beside the PyTorch peers", _against),
    ("Methods", _methods),
    ("Methods that run the model once a channel", _listed(
        "replays", "framework", "model", "method", "size")),
    ("Peak memory of a process", _priced("memory")),
    ("Peak memory of Score-CAM on 512 channels", _listed(
        "memory", "framework", "model", method="scorecam")),
    ("Peak memory beyond the imports", _listed(
        "memory", "framework", "model", "batch", size="beyond imports")),
    ("Start", _listed("start", "method", "model")),
    ("The first call beside the first of plain inference", _listed(
        "first", "framework", "model", "method")),
    ("The core beside OpenCV", _listed("core", "method", "size", "who")),
    ("Two threads beside one", _listed("threads", "framework", "model", "method")),
    ("Keras' own networks", _listed("applications", "framework", "model")),
    ("A gradient alone, ONNX", _listed("gradient", "model", "batch", "size")),
    ("Growth", _growth),
)  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
