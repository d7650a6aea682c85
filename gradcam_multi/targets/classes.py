"""Targets about one class of a row of class scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from gradcam_multi.errors import TargetError, UnknownClassError
from gradcam_multi.labels import find_label
from gradcam_multi.targets.protocol import Activation, Vector


@dataclass(frozen=True)
class _ClassTarget:
    """A target that reads one class, given by index or, with labels, by name; None is the top."""

    index: int | str | None = None

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> Self:
        if self.index is None:
            return type(self)(_top(logits))
        return type(self)(settled_class(self.index, len(logits), labels))

    def _settled(self) -> int:
        if not isinstance(self.index, int):
            raise TargetError(f"{self!r} has no score before it is resolved: call resolve first")
        return self.index


@dataclass(frozen=True)
class ClassScore(_ClassTarget):
    """The logit of a class: the score before softmax or sigmoid (Selvaraju 2017, section 3)."""

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the class's logit, and one where the class is and zero elsewhere."""
        index = self._settled()
        derivative = np.zeros_like(logits)
        derivative[index] = 1
        return float(logits[index]), derivative


@dataclass(frozen=True)
class Probability(_ClassTarget):
    """The probability of a class: behind the model's own softmax or sigmoid.

    Where the model ends in logits, softmax is applied to several classes and sigmoid to one. The
    derivative vanishes as the probability nears 0 or 1: prefer `ClassScore` for a sure network.
    """

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the class's probability and its derivative."""
        probabilities = probability(logits, activation)
        index = self._settled()
        p = probabilities[index]
        derivative = np.zeros_like(logits)
        derivative[index] = p
        if _is_softmax(logits, activation):
            return float(p), derivative - p * probabilities
        return float(p), derivative * (1 - p)


@dataclass(frozen=True)
class LogProbability(_ClassTarget):
    """The logarithm of a class's probability: minus the cross-entropy that classifiers learn by.

    Softmax or sigmoid as for `Probability`. Unlike it, its derivative does not vanish for a class
    that is improbable; for one that is sure it does.
    """

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the logarithm of the class's probability, and its derivative."""
        index = self._settled()
        derivative = np.zeros_like(logits)
        if _is_softmax(logits, activation):
            logs = log_softmax(logits)
            derivative[index] = 1
            return float(logs[index]), derivative - np.exp(logs)
        z = float(logits[index])
        derivative[index] = probability(-logits[index : index + 1], "sigmoid")[0]
        return float(-np.logaddexp(0.0, -z)), derivative


@dataclass(frozen=True)
class TopClass:
    """The logit of the class of a rank: 0 is the top class, 1 the runner-up, and so on."""

    rank: int = 0

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> ClassScore:
        """Return the class of this rank; ties go to the lower index."""
        if not 0 <= self.rank < len(logits):
            raise UnknownClassError(
                f"the class of rank {self.rank} was asked for; the output has {len(logits)}"
            )
        return ClassScore(ranked(logits)[self.rank] if self.rank else _top(logits))

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the score of the class of this rank."""
        return self.resolve(logits, None).score(logits, activation)


def ranked(logits: Vector) -> list[int]:
    """Return the classes of `(classes,)` logits, highest first; ties go to the lower index.

    NaN is lowest: the map says "nonfinite" all the same.
    """
    order: list[int] = np.argsort(-_told(logits), kind="stable").tolist()
    return order


def _top(logits: Vector) -> int:
    """The first of `ranked`, for which thousands of classes need not be sorted."""
    return int(np.argmax(_told(logits)))


def _told(logits: Vector) -> Vector:
    told: Vector = np.nan_to_num(logits, nan=-np.inf)
    return told


def settled_class(index: int | str, count: int, labels: Sequence[str] | None) -> int:
    """Return a class's index among `count`; raise UnknownClassError where there is none."""
    number = find_label(index, labels) if isinstance(index, str) else int(index)
    if not 0 <= number < count:
        raise UnknownClassError(
            f"class {number} was asked for; the output has {count} "
            f"class{'es' if count > 1 else ''}: give an index from 0 to {count - 1}"
        )
    return number


def class_name(index: int, labels: Sequence[str] | None) -> str:
    """Return what a class is called: its label, or its index."""
    if labels is not None and index < len(labels):
        return labels[index]
    return f"class {index}"


def _is_softmax(logits: Vector, activation: Activation) -> bool:
    return activation == "softmax" or (activation is None and logits.shape[-1] > 1)


def probability(logits: Vector, activation: Activation) -> Vector:
    """Return the probabilities of (..., classes) logits, by softmax or by sigmoid."""
    if _is_softmax(logits, activation):
        exponential = np.exp(logits - logits.max(-1, keepdims=True))
        total: Vector = exponential / exponential.sum(-1, keepdims=True)
        return total
    return 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow


def log_softmax(logits: Vector) -> Vector:
    """Return the logarithm of the softmax of (..., classes) logits."""
    shifted = logits - logits.max(-1, keepdims=True)
    total: Vector = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return total
