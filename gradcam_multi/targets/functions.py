"""A target of one's own: any function of the outputs, with its derivative or without."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gradcam_multi.errors import TargetError
from gradcam_multi.targets.protocol import Item, Vector

LARGEST = 10_000
"""Entries that a numerical derivative is taken of at most: each costs four calls."""

_STEP = float(np.finfo(np.float64).eps) ** (1 / 3)  # balances truncation against rounding
_AGREE = 1e-3  # of the largest slope: two steps agree far better where a function is smooth


@dataclass(frozen=True, eq=False)
class FunctionScore:
    """A function of one item's output that returns a number, as a score.

    `function` takes the float64 logits of the output that is explained, of its own shape without
    the batch axis; where `outputs` are named, a dict of these. `derivative` takes the same and
    returns an array of that shape, or a dict of them. It is checked against the function along one
    direction unless `check` is false (a surrogate gradient, say). `name` is what to call it.

    Without one, the derivative is measured by central differences of two steps, for outputs of at
    most 10000 entries; where the two disagree, the function is not smooth there, or computes in
    less than float64, and TargetError is raised.
    """

    function: Callable[[Any], Any]
    derivative: Callable[[Any], Any] | None = None
    outputs: tuple[str, ...] = ()
    name: str = ""
    check: bool = True

    def __post_init__(self) -> None:
        names = (self.outputs,) if isinstance(self.outputs, str) else tuple(self.outputs)
        object.__setattr__(self, "outputs", names)

    def resolve_item(self, item: Item) -> Self:
        """Return itself; raise TargetError for an output that the model does not return."""
        for name in self.outputs:
            item.called(name)
        return self

    def score_item(self, item: Item) -> tuple[float, Mapping[str, Vector]]:
        """Return the function's value and its derivatives; raise TargetError as the class says."""
        found = {name: item[name] for name in self.outputs or (item.output,)}
        value = self._value(found)
        if not np.isfinite(value):  # the item's own numbers are not: the status will say so
            return value, {name: np.full_like(x, np.nan) for name, x in found.items()}
        if self.derivative is None:
            return value, self._measured(found, value)
        given = self.derivative(self._argument(found))
        if not self.outputs:
            given = {item.output: given}
        if not isinstance(given, Mapping) or set(given) != set(found):
            raise TargetError(
                f"the derivative of {self._called()} by {', '.join(found)} was asked for: return "
                "a dict with an array for each"
            )
        slopes = {name: np.asarray(given[name], np.float64) for name in found}
        for name, slope in slopes.items():
            if slope.shape != found[name].shape:
                raise TargetError(
                    f"the derivative of {self._called()} has the shape {slope.shape}; output "
                    f"{name!r} has {found[name].shape} an item: return one entry for each of these"
                )
        if self.check:
            self._compare(found, slopes, value)
        return value, slopes

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return its name."""
        return self._called()

    def _called(self) -> str:
        own = str(getattr(self.function, "__name__", "function"))
        return self.name or own.replace("<lambda>", "function")

    def _argument(self, found: Mapping[str, Vector]) -> Any:
        # Copies, so that a function that writes to its argument spoils nothing.
        copies = {name: x.copy() for name, x in found.items()}
        return copies if self.outputs else next(iter(copies.values()))

    def _value(self, found: Mapping[str, Vector]) -> float:
        value = np.asarray(self.function(self._argument(found)))
        if value.size != 1 or value.dtype.kind not in "biuf":
            raise TargetError(
                f"{self._called()} returned {value.dtype} {value.shape}: a score is one number an "
                "item"
            )
        return float(value.reshape(()))

    def _slope(self, found: Mapping[str, Vector], along: Mapping[str, Vector]) -> float:
        """Half of the difference that going along a direction, forth and back, makes."""
        forth = self._value({name: x + along[name] for name, x in found.items()})
        back = self._value({name: x - along[name] for name, x in found.items()})
        return (forth - back) / 2

    def _measured(self, found: Mapping[str, Vector], value: float) -> dict[str, Vector]:
        count = sum(x.size for x in found.values())
        if count > LARGEST:
            raise TargetError(
                f"the derivative of {self._called()} by {count} entries was asked for, which takes "
                f"{4 * count} calls of it an item; at most {LARGEST} entries are measured: give "
                "derivative="
            )
        slopes: dict[str, Vector] = {}
        for name, x in found.items():
            step = _STEP * _scale(x)
            along = {other: np.zeros(y.shape) for other, y in found.items()}
            entry = along[name].reshape(-1)
            coarse, fine = np.zeros(x.size), np.zeros(x.size)
            for k in range(x.size):
                entry[k] = step
                coarse[k] = self._slope(found, along) / step
                entry[k] = step / 2
                fine[k] = self._slope(found, along) / (step / 2)
                entry[k] = 0
            # Rounding of the values themselves says nothing about smoothness.
            rounding = 16 * np.finfo(np.float64).eps * abs(value) / step
            allowed = _AGREE * np.abs(fine).max(initial=0) + rounding
            worst = np.abs(coarse - fine).max(initial=0)
            if not worst <= allowed:
                raise TargetError(
                    f"the derivative of {self._called()} by output {name!r} was measured with two "
                    f"steps, which differ by {worst:.1e} (largest slope {np.abs(fine).max():.1e}): "
                    "it is not smooth there, or not float64 throughout; give derivative="
                )
            # Richardson's extrapolation: the error that goes with the step's square cancels.
            slopes[name] = ((4 * fine - coarse) / 3).reshape(x.shape)
        return slopes

    def _compare(
        self, found: Mapping[str, Vector], slopes: Mapping[str, Vector], value: float
    ) -> None:
        """Check a derivative that was given along one direction of random signs."""
        random = np.random.default_rng(0)
        along = {
            # Wide enough for a function that computes in float32: the check is a coarse one.
            name: 1e-2 * _scale(x) * random.choice((-1.0, 1.0), x.shape)
            for name, x in found.items()
        }
        half = {name: step / 2 for name, step in along.items()}
        measured = self._slope(found, along)
        finer = 2 * self._slope(found, half)
        expected = sum(float((slopes[name] * along[name]).sum()) for name in found)
        # What the function's own bend and rounding may make, and 1 % of the terms that are summed.
        terms = np.sqrt(sum(float(((slopes[n] * along[n]) ** 2).sum()) for n in found))
        rounding = 4 * float(np.finfo(np.float32).eps) * abs(value)
        allowed = 2 * abs(measured - finer) + 1e-2 * terms + rounding
        if not abs(finer - expected) <= allowed:
            raise TargetError(
                f"the derivative of {self._called()} that was given says {expected:.4g} where the "
                f"function changes by {finer:.4g}: correct it, or give check=False for a "
                "surrogate"
            )


def _scale(x: Vector) -> float:
    return float(np.abs(x).max(initial=0)) or 1.0
