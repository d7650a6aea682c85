"""The metrics as a table: name, source, range, direction, and how each is measured.

`METRICS` is what `evaluate` and the command line read. A measure gets a `Case`, one batch and one
method, and returns a value an item; where several metrics need the same forward passes, the case
keeps what they found.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from gradcam_multi.errors import InputError, suggest
from gradcam_multi.metrics import (
    confidence,
    curves,
    fidelity,
    imputation,
    localization,
    quality,
    stability,
)
from gradcam_multi.metrics.baselines import Baseline
from gradcam_multi.metrics.score import Score, Vector
from gradcam_multi.spec import Array

Need = Literal["score", "explain", "masks", "scipy"]
"""What a metric asks for: forward passes, further explanations, masks, SciPy."""


@dataclass(frozen=True)
class Options:
    """What the metrics can be told; None leaves a metric its own baseline.

    `tolerance` is in pixels of the input, `threshold` and `shares` are shares, `chunk` is how many
    changed inputs run at once (None: `sizes.items_at_once`); the rest is defined where the metrics
    are.
    """

    steps: int = curves.STEPS
    baseline: Baseline | None = None
    tolerance: float = localization.TOLERANCE
    threshold: float = localization.THRESHOLD
    shares: tuple[float, ...] = imputation.SHARES
    noise: float = imputation.NOISE
    subsets: int = fidelity.SUBSETS
    radius: float = stability.RADIUS
    samples: int = stability.SAMPLES
    seed: int = 0
    chunk: int | None = None


@dataclass(frozen=True, eq=False)
class Case:
    """One batch as one method explains it, channels first.

    `inputs` (N, C, *spatial), `heatmaps` (N, *spatial) in [0, 1]; `before` (N,) the scores of the
    inputs; `explain` maps other inputs to heatmaps for the same targets; `masks` (N, *spatial);
    `first` is the number of the first item among all that are evaluated.
    """

    inputs: Array
    heatmaps: Array
    score: Score
    before: Vector
    explain: Callable[[Array], Array]
    masks: np.ndarray | None = None
    first: int = 0
    options: Options = field(default_factory=Options)

    def drawn(self) -> dict[str, int]:
        """Return what every metric that draws by lot is told."""
        return {"seed": self.options.seed, "first": self.first}

    def filled(self, own: Baseline) -> dict[str, Any]:
        """Return the baseline asked for, else a metric's own, and the size of a chunk."""
        asked = self.options.baseline
        return {"baseline": own if asked is None else asked, "chunk": self.options.chunk}

    @cached_property
    def left(self) -> Array:
        """What the heatmaps leave of the inputs."""
        fill = self.options.baseline
        return confidence.masked(self.inputs, self.heatmaps, 0.0 if fill is None else fill)

    @cached_property
    def after(self) -> Vector:
        """(N,) scores of what the heatmaps leave."""
        return self.score(self.left, np.arange(len(self.inputs)))

    @cached_property
    def drop(self) -> Vector:
        """(N,) average drop, item by item."""
        return confidence.average_drop(self.before, self.after)

    @cached_property
    def coherency(self) -> Vector:
        """(N,) coherency, by one more explanation."""
        return quality.coherency(self.heatmaps, self.explain(self.left))

    @cached_property
    def road(self) -> imputation.Road:
        """Scores with pixels imputed, for both orders."""
        options = self.options
        return imputation.road(
            self.score,
            self.inputs,
            self.heatmaps,
            shares=options.shares,
            noise=options.noise,
            chunk=options.chunk,
            **self.drawn(),
        )


@dataclass(frozen=True)
class Metric:
    """A metric: its name, what it asks, its range, which end is good, and its source."""

    name: str
    question: str
    measure: Callable[[Case], Vector]
    better: Literal["higher", "lower"]
    paper: str
    needs: frozenset[Need]
    low: float = 0.0
    high: float = 1.0


def _deletion(case: Case) -> Vector:
    return curves.deletion(
        case.score,
        case.inputs,
        case.heatmaps,
        steps=case.options.steps,
        **case.filled("mean"),
        **case.drawn(),
    ).area


def _insertion(case: Case) -> Vector:
    return curves.insertion(
        case.score,
        case.inputs,
        case.heatmaps,
        steps=case.options.steps,
        **case.filled("blur"),
        **case.drawn(),
    ).area


def _fidelity(case: Case) -> Vector:
    return fidelity.mu_fidelity(
        case.score,
        case.inputs,
        case.heatmaps,
        subsets=case.options.subsets,
        **case.filled("mean"),
        **case.drawn(),
    )


def _sensitivity(case: Case) -> Vector:
    return stability.max_sensitivity(
        case.explain,
        case.inputs,
        case.heatmaps,
        radius=case.options.radius,
        samples=case.options.samples,
        **case.drawn(),
    )


def _masks(case: Case) -> np.ndarray:
    if case.masks is None:
        raise InputError("this metric compares with masks, and none were given: give one an item")
    return case.masks


_CHATTOPADHYAY = "Chattopadhyay 2018, arXiv:1710.11063"
_RONG = "Rong 2022, arXiv:2202.00449"
_POPPI = "Poppi 2021, arXiv:2104.10252"
_SCORE: frozenset[Need] = frozenset({"score"})
_MASKS: frozenset[Need] = frozenset({"masks"})
_BOTH: frozenset[Need] = frozenset({"score", "explain"})
_SCIPY: frozenset[Need] = frozenset({"score", "scipy"})

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "average-drop", "how much of the probability is lost where the map is dark",
            lambda case: case.drop, "lower", _CHATTOPADHYAY, _SCORE,
        ),
        Metric(
            "increase", "how often the probability rises there",
            lambda case: confidence.increase(case.before, case.after),
            "higher", _CHATTOPADHYAY, _SCORE,
        ),
        Metric(
            "average-gain", "how much of the missing probability is gained there",
            lambda case: confidence.average_gain(case.before, case.after),
            "higher", "Zhang 2023, arXiv:2301.07002", _SCORE,
        ),
        Metric(
            "deletion", "area under the probability while the brightest pixels go first",
            _deletion, "lower", "Petsiuk 2018, arXiv:1806.07421", _SCORE,
        ),
        Metric(
            "insertion", "area under the probability while the brightest pixels come first",
            _insertion, "higher", "Petsiuk 2018, arXiv:1806.07421", _SCORE,
        ),
        Metric(
            "road-most", "probability without the brightest pixels, imputed",
            lambda case: case.road.most.mean(1), "lower", _RONG, _SCIPY,
        ),
        Metric(
            "road-least", "probability without the darkest pixels, imputed",
            lambda case: case.road.least.mean(1), "higher", _RONG, _SCIPY,
        ),
        Metric(
            "road", "half of the difference of these two",
            lambda case: case.road.combined, "higher", _RONG, _SCIPY, -0.5, 0.5,
        ),
        Metric(
            "mu-fidelity", "correlation of a part's brightness and the drop without it",
            _fidelity, "higher", "Bhatt 2020, arXiv:2005.00631", _SCORE, -1.0, 1.0,
        ),
        Metric(
            "coherency", "likeness to the map of what the map leaves",
            lambda case: case.coherency, "higher", _POPPI, frozenset({"explain"}),
        ),
        Metric(
            "complexity", "mean brightness",
            lambda case: quality.complexity(case.heatmaps), "lower", _POPPI, frozenset(),
        ),
        Metric(
            "adcc", "harmonic mean of coherency, 1 - complexity and 1 - average drop",
            lambda case: quality.adcc(
                case.coherency, quality.complexity(case.heatmaps), case.drop
            ),
            "higher", _POPPI, _BOTH,
        ),
        Metric(
            "pointing-game", "whether the brightest pixel lies on the object",
            lambda case: localization.pointing_game(
                case.heatmaps, _masks(case), case.options.tolerance
            ),
            "higher", "Zhang 2016, arXiv:1608.00507", _MASKS,
        ),
        Metric(
            "energy", "share of the brightness that lies on the object",
            lambda case: localization.energy(case.heatmaps, _masks(case)),
            "higher", "Wang 2020, arXiv:1910.01279", _MASKS,
        ),
        Metric(
            "iou", "overlap of the bright part and the object",
            lambda case: localization.iou(case.heatmaps, _masks(case), case.options.threshold),
            "higher", "Zhou 2016, arXiv:1512.04150", _MASKS,
        ),
        Metric(
            "max-sensitivity", "how far the map moves under a little noise",
            _sensitivity, "lower", "Yeh 2019, arXiv:1901.09392", frozenset({"explain"}),
            0.0, float("inf"),
        ),
    )
}  # fmt: skip

DEFAULT = ("average-drop", "increase", "deletion", "insertion")
WITH_MASKS = ("pointing-game", "energy")


def metrics_named(names: Iterable[str] | None, masks: bool) -> list[Metric]:
    """Return metrics by their names; for None the usual ones, with those of masks if there are any.

    Raises InputError for a name that is not in the table, and for masks that are missing.
    """
    asked = [*DEFAULT, *(WITH_MASKS if masks else ())] if names is None else list(names)
    for name in asked:
        if name not in METRICS:
            raise InputError(
                f"no metric is called {name!r}; there are {', '.join(METRICS)}"
                f"{suggest(str(name), METRICS)}"
            )
        if "masks" in METRICS[name].needs and not masks:
            raise InputError(f"{name} compares with masks, and none were given: give one an item")
        if "scipy" in METRICS[name].needs:
            imputation.require_scipy()
    if not asked:
        raise InputError("no metric was asked for: name at least one")
    return [METRICS[name] for name in dict.fromkeys(asked)]
