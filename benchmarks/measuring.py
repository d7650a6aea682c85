"""Calls that take turns in one process, and what they cost beside plain inference.

A turn is a few calls in a row after a pause, the first of them not counted: threads that have just
worked spin for a while (a plain ONNX Runtime session's for 50 ms) and would take the cores from
whoever comes next. A call of half a second is long beside all that, and is made once. Compared are
the medians of the turns; the spread is the quartiles of the ratio, turn by turn.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Call = Callable[[], Any]

PAUSE = 0.1  # seconds before a turn
LONG = 0.5  # seconds of a call that needs no other before it and no other beside it
IN_A_ROW = 2  # calls of a turn that are counted, of those that are not long
FEWEST, MOST = 3, 40  # turns
PATIENCE = 10  # seconds of a call after which it is not tried again, and has fewer turns


class Turns:
    """Has calls take turns: `ours` is timed by pytest-benchmark, the others before each turn."""

    def __init__(self, benchmark: Any, seconds: float, turns: int | None) -> None:
        self.benchmark, self.seconds, self.turns = benchmark, seconds, turns

    def __call__(self, ours: Call, others: Mapping[str, Call]) -> dict[str, np.ndarray]:
        """Return seconds, (turns,) each, of "ours" and of the others by name."""
        once = {name: _tried(call) for name, call in {"ours": ours, **others}.items()}
        turns = self.turns or self._affordable(list(once.values()))
        times: dict[str, list[float]] = {name: [] for name in others}
        counted = _counted(once["ours"])
        rounds = iter(range(turns * counted))

        def before() -> None:
            if next(rounds, 0) % counted:
                return
            for name, call in others.items():
                _settle(call, once[name])
                measured = [_timed(call) for _ in range(_counted(once[name]))]
                times[name].append(float(np.mean(measured)))
            _settle(ours, once["ours"])

        self.benchmark.pedantic(ours, setup=before, rounds=turns * counted, iterations=1)
        own = np.array(self.benchmark.stats.stats.data).reshape(turns, counted).mean(1)
        return {"ours": own, **{name: np.array(values) for name, values in times.items()}}

    def _affordable(self, once: list[float]) -> int:
        """The turns that fit into the seconds, where the calls take so long each."""
        turn = sum(_calls(seconds) * seconds + PAUSE for seconds in once)
        fewest = FEWEST - (max(once) > PATIENCE)
        return int(np.clip(self.seconds / turn, fewest, MOST))


def _tried(call: Call) -> float:
    """Seconds of the second call: the first may build or compile."""
    first = _timed(call)
    return first if first > PATIENCE else _timed(call)


def _counted(seconds: float) -> int:
    return IN_A_ROW if seconds < LONG else 1


def _calls(seconds: float) -> int:
    return IN_A_ROW + 1 if seconds < LONG else 1


def _settle(call: Call, seconds: float) -> None:
    time.sleep(PAUSE)
    if seconds < LONG:
        call()


def _timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def quartiles(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.percentile(values, [25, 75])]


def compared(times: np.ndarray, plain: np.ndarray, unit: float = 1e3) -> dict[str, Any]:
    """Return what a record says of (turns,) seconds beside those of plain inference."""
    return {
        "median": unit * float(np.median(times)),
        "quartiles": [unit * value for value in quartiles(times)],
        "plain": unit * float(np.median(plain)),
        "ratio": float(np.median(times) / np.median(plain)),
        "spread": quartiles(times / plain),
        "turns": len(times),
    }
