"""The plots of a report, by matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .growth import FEWEST, fitted
from .records import Record
from .tables import OURS, chosen, grown, newest

BATCH = 8


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_prices(records: Sequence[Record], path: Path) -> bool:
    """Bars of the ratio to inference, a panel a framework; returns whether there was any."""
    rows = newest(chosen(records, "gradcam", batch=BATCH, device=None))
    frameworks = list(dict.fromkeys(row["framework"] for row in rows))
    if not rows:
        return False
    plt = _pyplot()
    figure, axes = plt.subplots(
        1, len(frameworks), figsize=(4.5 * len(frameworks), 3.6), squeeze=False
    )
    for axis, framework in zip(axes[0], frameworks, strict=True):
        here = [row for row in rows if row["framework"] == framework]
        models = list(dict.fromkeys(row["model"] for row in here))
        who = sorted({row["who"] for row in here}, key=lambda name: (name != OURS, name))
        width = 0.8 / len(who)
        for index, name in enumerate(who):
            found = {row["model"]: row["ratio"] for row in here if row["who"] == name}
            places = [models.index(model) + (index + 0.5) * width - 0.4 for model in found]
            axis.bar(places, list(found.values()), width, label=name)
        axis.axhline(1, color="black", linewidth=0.8, label="plain inference")
        axis.set_xticks(range(len(models)), models, rotation=30, ha="right", fontsize=8)
        axis.set_title(framework)
        axis.margins(y=0.45)  # room for the legend
        axis.legend(fontsize=8, ncols=2)
    axes[0][0].set_ylabel(f"time / inference, batch {BATCH}")
    _save(figure, path, rows)
    return True


def plot_growth(records: Sequence[Record], path: Path) -> bool:
    """Prices against sizes with their fits, a panel for what grows."""
    prices = grown(records)
    if not prices:
        return False
    frameworks, what = (list(dict.fromkeys(names)) for names in zip(*prices, strict=True))
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(what), figsize=(3.6 * len(what), 3.4), squeeze=False)
    for axis, name in zip(axes[0], what, strict=True):
        for color, framework in enumerate(frameworks):
            rows = prices.get((framework, name))
            if not rows:
                continue
            points = sorted((row["size"], row["median"], row["plain"]) for row in rows)
            sizes, ours, plain = zip(*points, strict=True)
            axis.plot(sizes, ours, "o", color=f"C{color}", label=framework, markersize=4)
            axis.plot(sizes, plain, "x", color=f"C{color}", markersize=4)
            if len(sizes) >= FEWEST:
                law = fitted(sizes, ours)
                fit = [law.fixed + law.slope * size**law.exponent for size in sizes]
                axis.plot(sizes, fit, color=f"C{color}", linewidth=1)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.tick_params(axis="x", which="minor", labelbottom=False)  # over one decade they overlap
        axis.set_title({"side": "pixels"}.get(name, name))
    axes[0][0].legend(fontsize=8)  # one for all: in other panels it would lie over points
    axes[0][0].set_ylabel("ms: dots Grad-CAM, crosses inference")
    _save(figure, path, [row for rows in prices.values() for row in rows])
    return True


def _save(figure: Any, path: Path, rows: Sequence[Record]) -> None:
    dates = sorted({row["date"] for row in rows})
    figure.supxlabel(f"measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
