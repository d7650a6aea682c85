"""Targets that weigh the entries of a row of scores: differences, sums, one unit, a value."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from gradcam_multi.errors import TargetError
from gradcam_multi.targets.classes import class_name, ranked, settled_class
from gradcam_multi.targets.protocol import Activation, Vector

ClassName = int | str


@dataclass(frozen=True)
class ClassDifference:
    """Why this class and not those: its logit minus a weighted sum of the others'.

    `index` is this class, by default the top one that is none of the others; `others` the class or
    classes to tell it from, by default the top one that is not this. `weights` is one
    number that they share, or one number each. For softmax the difference of two logits is the
    logarithm of how many times likelier one class is than the other (Finer-CAM, Zhang 2025, maps
    this score).
    """

    index: ClassName | None = None
    others: ClassName | Sequence[ClassName] | None = None
    weights: float | Sequence[float] = 1.0

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> Self:
        """Settle both sides; raise TargetError where they overlap or weights do not fit."""
        count = len(logits)
        if count < 2:
            raise TargetError(
                "a difference of classes was asked for; the output has one class: give Binary()"
            )
        order = ranked(logits)
        named = [] if self.others is None else _listed(self.others)
        others = [settled_class(k, count, labels) for k in named]
        if self.index is None:
            index = next((k for k in order if k not in others), order[0])
        else:
            index = settled_class(self.index, count, labels)
        if self.others is None:
            others = [next(k for k in order if k != index)]
        if index in others or not others:
            raise TargetError(
                f"the difference of class {index} and {others} was asked for: give others that "
                "do not hold the class itself, at least one"
            )
        weights = self.weights
        if isinstance(weights, int | float):
            shares = [weights / len(others)] * len(others)
        else:
            shares = list(weights)
        if len(shares) != len(others):
            raise TargetError(
                f"{len(shares)} weights were given for {len(others)} other classes: give one "
                "number for all, or one for each"
            )
        return replace(self, index=index, others=tuple(others), weights=tuple(shares))

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the weighted difference, and the weights."""
        if not isinstance(self.index, int) or not isinstance(self.others, tuple):
            return self.resolve(logits, None).score(logits, activation)
        derivative = np.zeros_like(logits)
        derivative[self.index] = 1
        np.subtract.at(derivative, list(self.others), self.weights)
        return _weighed(logits, derivative), derivative

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return both sides by name."""
        if not isinstance(self.index, int) or not isinstance(self.others, tuple):
            return "top class, not the next"
        others = " or ".join(class_name(int(k), labels) for k in self.others[:3])
        more = " or others" if len(self.others) > 3 else ""
        return f"{class_name(self.index, labels)}, not {others}{more}"


@dataclass(frozen=True)
class MultiLabel:
    """The sum of several classes' logits, for a model that may find many things at once.

    `indices` are classes by index or name; left out, those that the model finds (logit above 0,
    probability above one half; the top one where there are none). `weights` are one each.
    """

    indices: Sequence[ClassName] | None = None
    weights: Sequence[float] | None = None

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> Self:
        """Settle the classes; raise TargetError where one is named twice or weights do not fit."""
        if self.indices is None:
            found = [k for k in ranked(logits) if logits[k] > 0] or ranked(logits)[:1]
        else:
            found = [settled_class(k, len(logits), labels) for k in _listed(self.indices)]
        if not found or len(set(found)) != len(found):
            raise TargetError(f"the sum of classes {found} was asked for: give each class once")
        weights = (1.0,) * len(found) if self.weights is None else tuple(self.weights)
        if len(weights) != len(found):
            raise TargetError(
                f"{len(weights)} weights were given for {len(found)} classes: give one for each"
            )
        return replace(self, indices=tuple(found), weights=weights)

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the weighted sum, and the weights."""
        if self.indices is None or self.weights is None:
            return self.resolve(logits, None).score(logits, activation)
        derivative = np.zeros_like(logits)
        derivative[np.array(self.indices)] = self.weights
        return _weighed(logits, derivative), derivative

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return the classes' names."""
        if self.indices is None:
            return "classes found"
        return " + ".join(class_name(k, labels) if isinstance(k, int) else k for k in self.indices)


@dataclass(frozen=True)
class Binary:
    """The logit of a yes-or-no model of one unit, or, with `positive=False`, of its "no".

    With a sigmoid p = s(z), the logit of "no" is -z: s(-z) = 1 - p. Two labels are "no" and "yes".
    """

    positive: bool = True

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> Self:
        """Return itself; raise TargetError where the output has several units."""
        if len(logits) != 1:
            raise TargetError(
                f"a yes-or-no target was asked for; the output has {len(logits)} units, not one: "
                "give a class index, or ClassDifference(1, 0) for two"
            )
        return self

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the unit's logit and one, or both negated."""
        sign = 1.0 if self.positive else -1.0
        return sign * float(logits[0]), np.full_like(logits, sign)

    def probability_of(self, probabilities: Vector) -> float:
        """Return the probability of the answer."""
        p = float(probabilities[0])
        return p if self.positive else 1 - p

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return the answer's label where there are two, else the word for it."""
        if labels is not None and len(labels) == 2:
            return labels[int(self.positive)]
        return "positive" if self.positive else "negative"


@dataclass(frozen=True)
class Regression:
    """What drives a predicted value up (`direction=1`) or down (-1), or away from a `reference`.

    The score is direction * (value - reference). With `direction=None` it is the direction in
    which the value lies from the reference: why is it as far from it as it is? (Letzgus 2022:
    a value can be explained only relative to a reference.) `unit` is the value's place where the
    output has several.
    """

    direction: Literal[1, -1] | None = 1
    reference: float = 0.0
    unit: int = 0

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> Self:
        """Settle the direction; raise TargetError where there is no such unit."""
        if not 0 <= self.unit < len(logits):
            raise TargetError(
                f"the value of unit {self.unit} was asked for; the output has {len(logits)}: give "
                f"a unit from 0 to {len(logits) - 1}"
            )
        if self.direction not in (1, -1, None):
            raise TargetError(
                f"direction {self.direction!r} was asked for: give 1 (up), -1 (down), or None "
                "(away from the reference)"
            )
        if self.direction is not None:
            return self
        return replace(self, direction=-1 if logits[self.unit] < self.reference else 1)

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return how far the value is beyond the reference, and the direction."""
        if self.direction is None:
            return self.resolve(logits, None).score(logits, activation)
        derivative = np.zeros_like(logits)
        derivative[self.unit] = self.direction
        return self.direction * (float(logits[self.unit]) - self.reference), derivative

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return the value's name and the direction."""
        name = labels[self.unit] if labels is not None and self.unit < len(labels) else "value"
        if self.direction is None:
            return f"{name} away from {self.reference:g}"
        way = "above" if self.direction > 0 else "below"
        if self.reference:
            return f"{name} {way} {self.reference:g}"
        return f"{name} {'up' if self.direction > 0 else 'down'}"


def _listed(classes: ClassName | Sequence[ClassName]) -> list[ClassName]:
    return [classes] if isinstance(classes, str | int | np.integer) else list(classes)


def _weighed(logits: Vector, weights: Vector) -> float:
    """The weighted sum of those logits that count: infinity elsewhere does not make it NaN."""
    counts = weights != 0
    return float(logits[counts] @ weights[counts])
