"""What is asked of the prices, as a table: a bound, and the figure that is held against it."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple

from .growth import FEWEST, fitted
from .records import Record
from .tables import OURS, chosen, grown, newest, table

FIXED = 2.0  # ms that an explanation of a single picture may take beside its share
RUNTIMES = {"onnx": 1.05, "torch": 1.05, "tensorflow": 1.10}
"""The most that Grad-CAM may take of an inference, median over the networks."""

Figures = Callable[[Sequence[Record]], Iterable[float]]


class Bound(NamedTuple):
    """What is asked: `of` gives the figures, `reduce` the one that counts."""

    what: str
    asked: float
    of: Figures
    reduce: Callable[[Iterable[float]], float] = max
    at_least: bool = False


def held(records: Sequence[Record]) -> list[str]:
    """Return the table of the bounds of which something was measured."""
    lines = []
    for bound in BOUNDS:
        if found := list(bound.of(records)):
            figure = bound.reduce(found)
            kept = figure >= bound.asked if bound.at_least else figure <= bound.asked
            asked = f"{'at least' if bound.at_least else 'at most'} {bound.asked:g}"
            lines.append(
                [bound.what, asked, f"{figure:.3g}", str(len(found)), "yes" if kept else "no"]
            )
    header = ["what", "asked", "measured", "of figures", "held"]
    return [table(header, lines)] if lines else []


def _ours(experiment: str, figure: str = "ratio", **about: object) -> Figures:
    def of(records: Sequence[Record]) -> Iterable[float]:
        rows = newest(chosen(records, experiment, who=OURS, device=None, **about))
        return [row[figure] for row in rows]

    return of


def _single(framework: str) -> Figures:
    """Ratios of single pictures, the fixed time taken off."""

    def of(records: Sequence[Record]) -> Iterable[float]:
        about = {"framework": framework, "batch": 1, "who": OURS, "device": None}
        rows = newest(chosen(records, "gradcam", **about))
        return [(row["median"] - FIXED) / row["plain"] for row in rows]

    return of


def _peers(*experiments: str, who: str | None = None, batch: int | None = None) -> Figures:
    """How many times as long others take as we do."""

    def of(records: Sequence[Record]) -> Iterable[float]:
        every = [row for name in experiments for row in newest(chosen(records, name, device=None))]
        return [
            row["slower"]
            for row in every
            if "slower" in row and who in (None, row["who"]) and batch in (None, row.get("batch"))
        ]

    return of


def _onnx_peers(records: Sequence[Record]) -> Iterable[float]:
    return [1 / row["ratio"] for row in newest(chosen(records, "onnx-peers"))]


def _exponents(records: Sequence[Record]) -> Iterable[float]:
    """The least that the prices allow, of Grad-CAM's growth in each size of its own."""
    return [
        round(fitted([row["size"] for row in rows], [row["median"] for row in rows]).least, 2)
        for rows in grown(records).values()
        if len(rows) >= FEWEST
    ]


BOUNDS = (
    *(
        Bound(f"Grad-CAM / inference, {framework}, batch 8, {name}", asked, _ours(
            "gradcam", framework=framework, batch=8), reduce)
        for framework, limit in RUNTIMES.items()
        for name, asked, reduce in (("median", limit, median), ("worst", 1.15, max))
    ),
    *(
        Bound(f"the same without {FIXED:g} ms, {framework}, batch 1, {name}", asked,
              _single(framework), reduce)
        for framework, limit in RUNTIMES.items()
        for name, asked, reduce in (("median", limit, median), ("worst", 1.15, max))
    ),
    *(
        Bound(f"peak memory / inference's, {framework}, worst", 1.10, _ours(
            "memory", framework=framework, method="gradcam", size=None))
        for framework in RUNTIMES
    ),
    Bound("any peer / ours, every network and method, least", 1, _peers(
        "gradcam", "methods"), min, at_least=True),
    Bound("grad-cam / ours, batch 8, median", 2.5, _peers(
        "gradcam", who="grad-cam", batch=8), median, at_least=True),
    Bound("PyTorch's peers / ours by ONNX, least", 1, _onnx_peers, min, at_least=True),
    Bound("1,000 heatmaps / OpenCV's", 1, _ours("core", method="heatmaps")),
    Bound("overlay / OpenCV's, worst", 1, _ours("core", method="overlay")),
    Bound("import, ms", 150, _ours("start", "median", method="import")),
    Bound("gradcam --help, ms", 300, _ours("start", "median", method="gradcam --help")),
    Bound("cold start with ONNX / plain session's, worst", 1.5, _ours(
        "start", method="cold start")),
    Bound("exponent of growth, least allowed, worst", 1, _exponents),
    Bound("gradient at the final map / session, worst", 1.10, _ours(
        "gradient", size="final map")),
    Bound("gradient graph of ResNet-50, ms", 2000, _ours("gradient", "median", size="building")),
    *(
        Bound(f"gradient at the first layer / session, {name}", asked, _ours(
            "gradient", size="first layer", model=name))
        for name, asked in (("ResNet-18", 2.5), ("EfficientNet-B0", 4))
    ),
    Bound("Score-CAM / 512 inferences, worst", 1.2, _ours("replays", method="scorecam")),
    Bound("Score-CAM's peak, 512 channels, MB, worst", 1500, _ours(
        "memory", "median", method="scorecam")),
)  # fmt: skip
"""Every price of which a bound is asked, in the report's order."""
