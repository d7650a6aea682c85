"""Methods held against each other: figures for each method, metric and item."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam_multi.cam import Status
from gradcam_multi.metrics.score import Vector
from gradcam_multi.metrics.table import METRICS

if TYPE_CHECKING:  # Pillow is imported when a picture is asked for
    from PIL import Image

RANDOM = "random"
"""The row of the baseline: maps drawn by lot on the methods' own grid, whatever the input."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured: `values[method][metric]` is (N,) float64, NaN where an item has no answer.

    `items` are their names, `statuses[method]` what each map is worth, `skipped` why others are
    not there. `layer` and `backend` say what was explained.
    """

    values: Mapping[str, Mapping[str, Vector]]
    items: tuple[str, ...]
    statuses: Mapping[str, tuple[Status, ...]]
    layer: str
    backend: str
    skipped: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.items)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, in the order asked for; the random baseline is one."""
        return tuple(self.values)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, in the order asked for."""
        return tuple(next(iter(self.values.values())))

    def count(self, metric: str) -> int:
        """Return how many items have an answer."""
        return int(np.isfinite(self.values[self.methods[0]][metric]).sum())

    def mean(self, method: str, metric: str) -> float:
        """Return the mean over the items that have an answer; NaN where none has."""
        values = self.values[method][metric]
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else math.nan

    def error(self, method: str, metric: str) -> float:
        """Return the standard error of the mean; NaN for less than two items."""
        values = self.values[method][metric]
        values = values[np.isfinite(values)]
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan

    def best(self, metric: str) -> tuple[str, ...]:
        """Return the methods with the best mean, to the three decimals that are printed.

        The random baseline does not take part; empty where no item has an answer.
        """
        sign = 1 if METRICS[metric].better == "higher" else -1
        found = {m: sign * round(self.mean(m, metric), 3) for m in self.methods if m != RANDOM}
        known = [value for value in found.values() if not math.isnan(value)]
        return tuple(m for m, value in found.items() if known and value == max(known))

    def __str__(self) -> str:
        """The table of means; `*` marks the best method of a metric."""
        best = {metric: self.best(metric) for metric in self.metrics}
        rows = [["", *self.metrics]]
        for method in self.methods:
            cells = [
                f"{cell(self.mean(method, m))}{'*' if method in best[m] else ' '}"
                for m in self.metrics
            ]
            rows.append([method, *cells])
        rows.append(["items", *(f"{self.count(m)} " for m in self.metrics)])
        rows.append(["better", *(f"{METRICS[m].better} " for m in self.metrics)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                text.rjust(n) if place else text.ljust(n)
                for place, (text, n) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        head = f"{len(self)} items, layer {self.layer}, {self.backend}; * the best of the methods"
        return "\n".join([head, *lines, *self.notes()])

    def notes(self) -> list[str]:
        """Return a line for each method some of whose maps are not ok."""
        lines = []
        for method, statuses in self.statuses.items():
            poor = [status for status in statuses if status != "ok"]
            kinds = ", ".join(f"{poor.count(s)} {s}" for s in dict.fromkeys(poor))
            if poor:
                lines.append(f"{method}: {len(poor)} of {len(self)} maps are not ok: {kinds}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data; None where an item has no answer."""
        metrics = {
            name: {
                "better": METRICS[name].better,
                "paper": METRICS[name].paper,
                "items": self.count(name),
                "best": list(self.best(name)),
            }
            for name in self.metrics
        }
        methods = {
            method: {
                name: {
                    "mean": plain(self.mean(method, name)),
                    "standard_error": plain(self.error(method, name)),
                    "values": [plain(value) for value in self.values[method][name]],
                }
                for name in self.metrics
            }
            for method in self.methods
        }
        return {
            "layer": self.layer,
            "backend": self.backend,
            "items": list(self.items),
            "skipped": list(self.skipped),
            "metrics": metrics,
            "methods": methods,
            "statuses": {method: list(found) for method, found in self.statuses.items()},
        }

    def to_json(self) -> str:
        """Return `to_dict` as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_pil(self, *, title: str = "") -> "Image.Image":
        """Draw a bar chart for each metric, one bar a method."""
        from gradcam_multi.metrics.chart import chart

        return chart(self, title=title)

    def save(self, path: str | Path) -> Path:
        """Write the report (.json) or the chart (.png); return the path.

        Raises ValueError for any other ending.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            path.write_text(self.to_json(), encoding="utf-8")
        elif path.suffix.lower() == ".png":
            self.to_pil().save(path)
        else:
            raise ValueError(f"cannot save {path.name!r}: the endings are .json and .png")
        return path


def cell(value: float) -> str:
    """Return a mean as it is written in tables."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def plain(value: Any) -> float | None:
    """Return a number that JSON has, or None."""
    return float(value) if math.isfinite(value) else None


def joined(parts: Sequence[Mapping[str, Mapping[str, Vector]]]) -> dict[str, dict[str, Vector]]:
    """Join the values of batches, in order."""
    return {
        method: {
            metric: np.concatenate([part[method][metric] for part in parts])
            for metric in parts[0][method]
        }
        for method in parts[0]
    }
