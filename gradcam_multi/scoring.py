"""What is explained of a batch, as its first run was scored, and the same of later runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradcam_multi.cam.probe import Scores
from gradcam_multi.spec import Array, Trace
from gradcam_multi.targets import (
    Activation,
    AnyTarget,
    ClassScore,
    Probability,
    Scored,
    class_scores,
)
from gradcam_multi.targets import probability as probability_of


@dataclass(frozen=True)
class Score:
    """What is explained of each item, as it was scored in the first run.

    `output` is the output explained, `activation` what follows its logits in the model. `score` is
    `targets.score_batch` for this model: it scores targets on logits.
    """

    first: Scored
    output: str
    score: Callable[..., Scored]
    activation: Activation = None

    @property
    def targets(self) -> Sequence[AnyTarget]:
        """The resolved targets, one an item."""
        return self.first.targets

    def logits(self, trace: Trace) -> Scores:
        """Return (N, classes) of a run."""
        return class_scores(trace.logits[self.output], self.output)

    def of(self, logits: Mapping[str, Array], *, probability: bool = False) -> Scores:
        """Return (variants, N) scores of logits whose batch holds every variant of all items."""
        count = len(self.targets)
        variants = len(logits[self.output]) // count
        classes = [
            t.index for t in self.targets if type(t) is ClassScore and isinstance(t.index, int)
        ]
        if len(classes) == count:  # thousands of rows: at once, and without their derivatives
            rows = class_scores(logits[self.output], self.output)
            rows = probability_of(rows, self.activation) if probability else rows
            return rows[np.arange(len(rows)), classes * variants].reshape(variants, count)
        targets = [_as_probability(t) for t in self.targets] if probability else [*self.targets]
        scores: Scores = self.score(targets * variants, logits, resolve=False).scores
        return scores.reshape(variants, count)

    def each(self, logits: Mapping[str, Array]) -> Scores:
        """Return (variants, N, classes) logits of a batch that holds every variant of all items."""
        found = class_scores(logits[self.output], self.output)
        return found.reshape(-1, len(self.targets), found.shape[-1])

    def cotangents(self, trace: Trace, variants: int = 1) -> Mapping[str, Array]:
        """Return the scores' derivatives with respect to the logits of another run.

        Its batch holds so many variants of all items.
        """
        return self.derivatives(trace.logits, variants)

    def derivatives(self, logits: Mapping[str, Array], variants: int = 1) -> Mapping[str, Array]:
        """Return the scores' derivatives with respect to these logits, likewise."""
        return self.score([*self.targets] * variants, logits, resolve=False).cotangents


def _as_probability(target: AnyTarget) -> AnyTarget:
    return Probability(target.index) if type(target) is ClassScore else target
