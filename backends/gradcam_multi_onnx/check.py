"""A freshly built gradient is checked once, on a real input, by finite differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from random import Random

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import UnsupportedError
from gradcam_multi_onnx.feeds import Feeds
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.plan import Backward, Plan, Values
from gradcam_multi_onnx.replay import Tail
from gradcam_multi_onnx.session import as_float
from gradcam_multi_onnx.skeleton import SMALL

TOLERANCE = 0.1
"""Of the gradient's norm. A wrong rule is off by the order of one; float32 rounding and the kinks
of ReLU and max pooling that a step crosses are mostly off by some hundredths. Where they are off
by more (12 % in a ResNet whose weights are all equal), the derivative is averaged along the step.
"""

STEPS = (1e-3, 1e-2, 3e-4, 3e-3, 1e-4, 3e-2)
"""Relative to the activation's root mean square: none suits every network."""

_ROUNDING = 1e-7  # of a float32 forward run, relative
_RANGE = {np.dtype(np.float16): 5e-2}  # what half precision may differ from its widened self
_ENOUGH, _DIRECTIONS = 3, 9
_AVERAGE = 8

_ROUNDERS = ("Quantize", "QLinear", "QGemm")  # in the names of operators that round to integers
_STAIRS, _STAIRS_AVERAGE = (1.0, 3.0), 32
"""Steps over many of the integers that a quantised model rounds to: from one to the next the score
jumps, and only on the average over some does it rise as the gradient says, straight through."""

Floats = NDArray[np.float64]


def check_plan(plan: Plan, feeds: Feeds, run: Callable[[], Values]) -> bool:
    """Compare every gradient of a plan with finite differences at a point near the real one.

    `run` gives the values of the forward run of `feeds`. Returns False where these are not finite,
    so that nothing can be said. Raises UnsupportedError where a gradient is wrong.
    """
    said = True
    for output, backward in plan.backward.items():
        if isinstance(backward, Backward):
            for target in backward.gradient.results:
                said &= _check(plan, output, backward, target, feeds, run)
    return said


def _check(
    plan: Plan, output: str, backward: Backward, target: str, feeds: Feeds,
    run: Callable[[], Values],
) -> bool:  # fmt: skip
    graph, value = plan.graph, plan.logits[output]
    if target == value:
        return True
    moving = graph.dependents([target])
    changing = [name for name in backward.gradient.reads if name in moving]
    # A few runs are not worth another copy of the weights, in the order that they are read fastest.
    tail = Tail(graph, target, list(dict.fromkeys([value, *changing])), least=SMALL)
    around = plan.beside(tail.boundary)
    random = Random(0)
    backward.open()  # like all of this, while the forward session is being opened
    values = {**feeds, **run(), **(around(feeds) if around else {})}
    actual = as_float(values[target]).astype(np.float64)
    reference = as_float(values[value]).astype(np.float64)
    again = tail(actual, values)[value]
    if not (np.isfinite(actual).all() and np.isfinite(reference).all()):
        return False
    allowed = _RANGE.get(values[value].dtype, 1e-3) * np.abs(reference).max(initial=1e-6)
    if np.abs(again - reference).max(initial=0) > allowed:
        raise UnsupportedError(
            f"the part of the model behind {target!r}, run alone, does not give the same {output!r}"
            "; choose a later layer"
        )
    scale = float(np.sqrt(np.mean(actual**2))) or 1.0
    cotangent = _drawn(random, reference.shape)
    # Beside the real point, where ties (zeros after a ReLU, below a max pooling) are broken.
    point = actual + 0.1 * scale * _drawn(random, actual.shape)
    here = tail(point, values)[value].astype(np.float64)
    if not np.isfinite(here).all():
        return False

    def score(at: Floats) -> float:
        return float((tail(at, values)[value].astype(np.float64) * cotangent).sum())

    def slope(at: Floats) -> Floats:
        found = backward(cotangent, {**values, **tail(at, values)})
        return found[target].astype(np.float64)

    rounding = _ROUNDING * float(np.linalg.norm(here * cotangent))
    stairs = _rounds(graph, target, value)
    probe = _Probe(score, slope, point, scale, rounding, _STAIRS if stairs else STEPS)
    errors = probe.errors(random, average=_STAIRS_AVERAGE if stairs else 1)
    if _median(errors) >= TOLERANCE and not stairs:
        errors = probe.errors(random, average=_AVERAGE)
    if _median(errors) >= TOLERANCE:
        advice = "explain the model before it was quantised" if stairs else "report the model"
        raise UnsupportedError(
            f"the gradient of {output!r} at layer {target!r} differs from finite differences by "
            f"{_median(errors):.0%} of its norm (at most {TOLERANCE:.0%} allowed); choose a "
            f"later layer, or {advice}"
        )
    return True


def _drawn(random: Random, shape: tuple[int, ...]) -> Floats:
    """Draw uniform values of mean 0 and variance 1."""
    # NumPy's own generators take 20 ms and 6 MB to import, once a process.
    numbers = np.frombuffer(random.randbytes(4 * prod(shape)), np.uint32)
    return ((numbers / 2.0**31 - 1) * sqrt(3)).reshape(shape)


def _median(errors: Sequence[float]) -> float:
    return sorted(errors)[len(errors) // 2]  # of an odd number; NumPy's imports masked arrays


def _rounds(graph: Graph, target: str, value: str) -> bool:
    """Whether something between a layer and the logits rounds to integers."""
    between = graph.dependents([target]) & graph.ancestors([value])
    kinds = {graph.producer[name].op_type for name in between - {target} if name in graph.producer}
    return any(word in kind for kind in kinds for word in _ROUNDERS)


@dataclass(frozen=True)
class _Probe:
    """A score, its gradient, and where to compare the two.

    Along directions of independent values of variance 1 the error of the directional derivative has
    the size of the gradient's own error, whatever its dimension.
    """

    score: Callable[[Floats], float]
    slope: Callable[[Floats], Floats]
    point: Floats
    scale: float
    rounding: float
    steps: tuple[float, ...] = STEPS

    def errors(self, random: Random, *, average: int) -> list[float]:
        """Return relative errors over random directions; the first few suffice if all are small.

        The derivative is averaged over some places along the step: a change of the score is the
        integral of its derivative, kinks or not.
        """
        gradient = self.slope(self.point)
        norm = float(np.linalg.norm(gradient))
        size, unit = norm * self.scale, gradient / (norm or 1)
        steps = [step for step in self.steps if self.rounding / step < 0.4 * TOLERANCE * size]
        if not steps and size > 0:
            return [0.0]  # the score hardly moves; rounding hides what it does
        found: list[float] = []
        for _ in range(_DIRECTIONS if average == 1 else _ENOUGH):
            drawn = _drawn(random, self.point.shape)
            # Away from being square to the gradient, where a wrong factor would not show.
            drawn += unit * np.copysign(1, (drawn * unit).sum())
            direction = self.scale * drawn
            if size == 0:
                found.append(float(abs(self._change(direction, 1e-2)) > 1000 * self.rounding))
                continue
            best = np.inf
            for step in steps:
                change = self._change(direction, step) / (2 * step)
                expected = float((gradient * direction).sum())
                if average > 1:
                    expected = self._expected(direction, step, average)
                best = min(best, abs(change - expected) / size)
                if best < TOLERANCE:
                    break
            found.append(float(best))
            if len(found) == _ENOUGH and max(found) < TOLERANCE:
                break
        return found

    def _change(self, direction: Floats, step: float) -> float:
        ends = (self.score(self.point + sign * step * direction) for sign in (1, -1))
        return next(ends) - next(ends)

    def _expected(self, direction: Floats, step: float, average: int) -> float:
        places = step * ((2 * np.arange(average) + 1) / average - 1)  # midpoints of -step..step
        slopes = [(self.slope(self.point + at * direction) * direction).sum() for at in places]
        return float(np.mean(slopes))
