"""What is explained: a score of one item's logits, and its derivative with respect to them.

A target sees the logits of one item, flat `(classes,)` float64, and says what score they give and
how the score changes with each. All the rest of a network is the adapter's vector-Jacobian product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import TargetCountError, TargetError, UnknownClassError
from gradcam_multi.labels import find_label

Activation = Literal["softmax", "sigmoid"] | None
Vector = NDArray[np.float64]


@runtime_checkable
class Target(Protocol):
    """A score of one item, and its derivative; what `target=` takes."""

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> "Target":
        """Settle what depends on the item: the top class, a class given by name."""
        ...

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the score of `(classes,)` logits and its derivative, `(classes,)`.

        `activation` is what the model itself applies to the logits, where that is known.
        """
        ...


@dataclass(frozen=True)
class _ClassTarget:
    """A target that reads one class, given by index or, with labels, by name; None is the top."""

    index: int | str | None = None

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> Self:
        count = len(logits)
        if self.index is None:
            # argmax would choose a NaN; the map says "nonfinite" all the same.
            return type(self)(int(np.argmax(np.nan_to_num(logits, nan=-np.inf))))
        index = find_label(self.index, labels) if isinstance(self.index, str) else self.index
        if not 0 <= index < count:
            raise UnknownClassError(
                f"class {index} was asked for; the output has {count} "
                f"class{'es' if count > 1 else ''}: give an index from 0 to {count - 1}"
            )
        return type(self)(index)

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
class TopClass:
    """The logit of the class of a rank: 0 is the top class, 1 the runner-up, and so on."""

    rank: int = 0

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> ClassScore:
        """Return the class of this rank; ties go to the lower index."""
        if not 0 <= self.rank < len(logits):
            raise UnknownClassError(
                f"the class of rank {self.rank} was asked for; the output has {len(logits)}"
            )
        order = np.argsort(-np.nan_to_num(logits, nan=-np.inf), kind="stable")
        return ClassScore(int(order[self.rank]))

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the score of the class of this rank."""
        return self.resolve(logits, None).score(logits, activation)


def _is_softmax(logits: Vector, activation: Activation) -> bool:
    return activation == "softmax" or (activation is None and logits.shape[-1] > 1)


def probability(logits: Vector, activation: Activation) -> Vector:
    """Return the probabilities of (..., classes) logits, by softmax or by sigmoid."""
    if _is_softmax(logits, activation):
        exponential = np.exp(logits - logits.max(-1, keepdims=True))
        total: Vector = exponential / exponential.sum(-1, keepdims=True)
        return total
    return 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow


def as_targets(target: Any, count: int) -> list[Target]:
    """Return one target an item from what a user gave: None, an index, a name, a target, or a
    sequence of these of the batch's length.

    Raises TargetCountError where a sequence has another length, TargetError for anything else.
    """
    single = _as_target(target)
    if single is not None:
        return [single] * count
    if isinstance(target, np.ndarray | Sequence) and np.ndim(target) <= 1:
        if len(target) != count:
            raise TargetCountError(
                f"{len(target)} targets were given for {count} item{'s' * (count != 1)}: "
                "give one for all, or one for each"
            )
        return [_checked_target(entry) for entry in target]
    return [_checked_target(target)]


def _as_target(value: Any) -> Target | None:
    if value is None:
        return TopClass()
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, str | int | np.integer):
        return ClassScore(value if isinstance(value, str) else int(value))
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu":
        return ClassScore(int(value))
    return value if isinstance(value, Target) else None


def _checked_target(value: Any) -> Target:
    target = _as_target(value)
    if target is None:
        raise TargetError(
            f"target {value!r} is a {type(value).__name__}: give a class index, a class name "
            "(with labels), a target such as ClassScore(3), or a list with one of these an item"
        )
    return target


def class_scores(logits: NDArray[Any], output: str) -> Vector:
    """Return (N, ...) logits as (N, classes) float64, axes of extent one dropped.

    Raises TargetError where more than one axis is left: such an output is a map.
    """
    axes = [n for n in logits.shape[1:] if n != 1]
    if len(axes) > 1:
        raise TargetError(
            f"output {output!r} has the shape {logits.shape}: a class target needs (N, classes), "
            "one score a class"
        )
    return logits.reshape(len(logits), axes[0] if axes else 1).astype(np.float64)
