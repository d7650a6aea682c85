"""What a comparison of models holds: all pairs of maps, a verdict, a table, JSON, a picture."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import InputError
from gradcam_multi.pair import Pair, informative, summary, top1_agreement

if TYPE_CHECKING:  # Pillow is imported when a picture is asked for
    from PIL import Image

SCHEMA = 1
"""The version of the JSON report; it rises when a key changes its meaning or goes."""

DEFAULT_DRIFT = 0.05
"""The share of a map's evidence that may move; docs/compare.md says what to expect."""


@dataclass(frozen=True)
class Compared:
    """One of the models of a comparison, and what of it was compared.

    `grid` is that of the layer's map and `input_size` that of the input, both without batch and
    channels. `raw` says whether all its maps were compared before resizing, on the grid that the
    reference has too; else both were resized to the reference's input. None for the reference.
    """

    name: str
    backend: str
    layer: str
    grid: tuple[int, ...]
    input_size: tuple[int, ...]
    raw: bool | None = None


@dataclass(frozen=True)
class Limits:
    """What a comparison has to hold on every image; None where nothing is asked.

    `max_drift` bounds the drift and `min_correlation` Pearson's correlation of every image;
    `min_agreement` is the least share of images with the reference's top class. Raises InputError
    for a limit that no comparison can break or hold.
    """

    max_drift: float | None = DEFAULT_DRIFT
    min_correlation: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges, so that a limit in percent does not let everything pass."""
        for name, low in (("max_drift", 0), ("min_correlation", -1), ("min_agreement", 0)):
            value = getattr(self, name)
            if value is not None and not low <= value <= 1:
                raise InputError(f"{name} is {value}: give a number from {low} to 1")


@dataclass(frozen=True)
class Comparison:
    """Models held against a reference on the same images; prints as a table.

    `pairs` are in the order of the images, for each other model in turn. `skipped` says in a line
    each which images could not be read.
    """

    reference: Compared
    others: tuple[Compared, ...]
    pairs: tuple[Pair, ...]
    method: str
    limits: Limits
    skipped: tuple[str, ...] = ()

    def of(self, model: str) -> tuple[Pair, ...]:
        """Return the pairs of one of the other models, in the order of the images."""
        return tuple(pair for pair in self.pairs if pair.model == model)

    def ranked(self) -> list[Pair]:
        """Return all pairs, the worst first: the largest drift, then the lowest correlation."""
        return sorted(self.pairs, key=lambda pair: (-pair.drift, pair.agreement.pearson))

    @property
    def worst(self) -> Pair:
        """The pair with the largest drift."""
        return self.ranked()[0]

    @cached_property
    def failures(self) -> tuple[str, ...]:
        """What does not hold, in a line each; empty where the comparison passed."""
        return tuple(line for other in self.others for line in self._failures(other))

    def _failures(self, other: Compared) -> list[str]:
        pairs, limits, lines = self.of(other.name), self.limits, []
        if all(pair.agreement.status == "flat" for pair in pairs):
            lines.append(
                f"{other.name}: neither model has a map with a peak for any of {len(pairs)} "
                "images, so that nothing was compared; choose another layer or target"
            )
        bounds = (
            ("drift", "max_drift", limits.max_drift, 1),
            ("pearson", "min_correlation", limits.min_correlation, -1),
        )
        for name, limit, bound, sign in bounds:
            beyond = [
                p for p in pairs if bound is not None and sign * (p.value(name) or 0) > sign * bound
            ]
            if beyond:
                worst = max(beyond, key=lambda pair: sign * (pair.value(name) or 0))
                lines.append(
                    f"{other.name}: {name} {worst.value(name):.3g} on {worst.image} is beyond "
                    f"{limit} {bound:g} ({len(beyond)} of {len(pairs)} images)"
                )
        share = top1_agreement(pairs)
        if limits.min_agreement is not None and share < limits.min_agreement:
            lines.append(
                f"{other.name}: {share:.1%} of {len(pairs)} images have the reference's top class, "
                f"less than min_agreement {limits.min_agreement:g}"
            )
        return lines

    @property
    def passed(self) -> bool:
        """Whether every limit holds, and something was compared."""
        return not self.failures

    def report(self) -> dict[str, Any]:
        """Return all figures, ready for JSON; docs/compare.md describes the keys."""
        from gradcam_multi import __version__

        return {
            "schema": SCHEMA,
            "version": __version__,
            "method": self.method,
            "limits": asdict(self.limits),
            "passed": self.passed,
            "failures": list(self.failures),
            "reference": asdict(self.reference),
            "others": [
                {
                    **asdict(other),
                    "passed": not self._failures(other),
                    "compared": len(informative(self.of(other.name))),
                    "top1_agreement": top1_agreement(self.of(other.name)),
                    "summary": summary(self.of(other.name)),
                    "images": [pair.record() for pair in self.of(other.name)],
                }
                for other in self.others
            ],
            "skipped": list(self.skipped),
        }

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.report(), indent=2, allow_nan=False) + "\n"

    def to_pil(
        self, images: Mapping[str, NDArray[np.uint8]], worst: int = 4, height: int = 256
    ) -> "Image.Image":
        """Draw the worst pairs, each as picture | reference | other | difference.

        `images` are (H, W, 3) uint8 RGB by the names that the pairs give them; `height` is that of
        a picture in pixels. Raises ImageError for one that is missing and maps that are not 2-D.
        """
        from gradcam_multi.drift_panel import drift_panel

        return drift_panel(self, images, self.ranked()[:worst], height=height)

    def __str__(self) -> str:
        from gradcam_multi.comparison_table import comparison_table

        return comparison_table(self)
