"""One image through two models: its figures, and how figures of many images are summed up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gradcam_multi.agreement import Agreement
from gradcam_multi.cam import Status
from gradcam_multi.geometry import Geometry
from gradcam_multi.spec import Array


@dataclass(frozen=True)
class Figure:
    """One figure of a comparison: its key, heading and format, and how bad a value of it is."""

    name: str
    heading: str
    format: str
    badness: Callable[[float], float]


def _low_is_bad(value: float) -> float:
    return -value


FIGURES = (
    Figure("drift", "drift", ".2g", abs),
    Figure("score_difference", "score", "+.3g", abs),
    Figure("probability_difference", "probability", "+.2g", abs),
    Figure("map_difference", "map", ".2g", abs),
    Figure("pearson", "pearson", ".4f", _low_is_bad),
    Figure("spearman", "spearman", ".4f", _low_is_bad),
    Figure("overlap", "top 20 %", ".2f", _low_is_bad),
    Figure("peak_shift", "peak px", ".1f", abs),
    Figure("peak_shift_share", "diagonal", ".1%", abs),
)
"""In the order of the table; docs/compare.md defines each."""


@dataclass(frozen=True)
class Maps:
    """The maps that a pair was judged by, reference first: before resizing, and where they lie."""

    cams: tuple[Array, Array]
    geometries: tuple[Geometry | None, Geometry | None]


@dataclass(frozen=True)
class Pair:
    """One image through the reference and one other model, both explained for one class.

    `target` is the class, `label` its name. `top1`, `scores`, `probabilities` and `statuses` are
    the reference's and the other's: the top class, the target's logit and probability (None where
    not finite) and the status of the map.
    """

    index: int
    image: str
    model: str
    target: int | None
    label: str
    top1: tuple[int, int]
    scores: tuple[float | None, float | None]
    probabilities: tuple[float | None, float | None]
    statuses: tuple[Status, Status]
    agreement: Agreement
    maps: Maps = field(repr=False, compare=False)

    @property
    def top1_agrees(self) -> bool:
        """Whether both models have the same top class."""
        return self.top1[0] == self.top1[1]

    @property
    def drift(self) -> float:
        """The share of the map's evidence that moved."""
        return self.agreement.drift

    def value(self, name: str) -> float | None:
        """Return a figure of `FIGURES` by name; None where a score is not finite."""
        if name == "score_difference":
            return _difference(self.scores)
        if name == "probability_difference":
            return _difference(self.probabilities)
        found: float = getattr(self.agreement, name)
        return found

    def record(self) -> dict[str, Any]:
        """Return what the JSON report says of it."""
        return {
            "image": self.image,
            "target": self.target,
            "label": self.label,
            "top1": list(self.top1),
            "top1_agrees": self.top1_agrees,
            "scores": list(self.scores),
            "probabilities": list(self.probabilities),
            "statuses": list(self.statuses),
            "status": self.agreement.status,
            "raw": self.agreement.raw,
            **{figure.name: self.value(figure.name) for figure in FIGURES},
        }


def _difference(values: tuple[float | None, float | None]) -> float | None:
    return None if values[0] is None or values[1] is None else values[1] - values[0]


def top1_agreement(pairs: Sequence[Pair]) -> float:
    """Return the share of images for which both models have the same top class."""
    return sum(pair.top1_agrees for pair in pairs) / len(pairs)


def informative(pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs that say something: those in which a map has a peak or is not finite."""
    return [pair for pair in pairs if pair.agreement.status != "flat"]


def summary(pairs: Sequence[Pair]) -> dict[str, dict[str, Any] | None]:
    """Return min, mean, max and the worst value with its image for each figure.

    Images on which neither map has a peak are left out, for their figures are a convention; None
    where nothing is left.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for figure in FIGURES:
        known = [
            (value, p) for p in informative(pairs) if (value := p.value(figure.name)) is not None
        ]
        found[figure.name] = None
        if known:
            values = [value for value, _ in known]
            worst, pair = max(known, key=lambda entry: figure.badness(entry[0]))
            mean = sum(values) / len(values)
            found[figure.name] = {
                "min": min(values), "mean": mean, "max": max(values), "worst": worst,
                "worst_image": pair.image,
            }  # fmt: skip
    return found
