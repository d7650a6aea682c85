"""Calls that take turns in one process, and what they cost beside plain inference.

A turn is a few calls in a row after a pause, the first of them not counted: threads that have just
worked spin for a while and would take the cores from whoever comes next. Compared are the medians
of the turns; the spread is the quartiles of the ratio, turn by turn.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Call = Callable[[], Any]

PAUSE = 0.05  # seconds before a turn
IN_A_ROW = 2  # calls of a turn that are counted
FEWEST, MOST = 4, 40  # turns


class Turns:
    """Has calls take turns: `ours` is timed by pytest-benchmark, the others before each turn."""

    def __init__(self, benchmark: Any, seconds: float, turns: int | None) -> None:
        self.benchmark, self.seconds, self.turns = benchmark, seconds, turns

    def __call__(self, ours: Call, others: Mapping[str, Call]) -> dict[str, np.ndarray]:
        """Return seconds, (turns,) each, of "ours" and of the others by name."""
        turns = self.turns or self._affordable([ours, *others.values()])
        times: dict[str, list[float]] = {name: [] for name in others}
        rounds = iter(range(turns * IN_A_ROW))

        def before() -> None:
            if next(rounds, 0) % IN_A_ROW:
                return
            for name, call in others.items():
                time.sleep(PAUSE)
                call()
                times[name].append(float(np.mean([_timed(call) for _ in range(IN_A_ROW)])))
            time.sleep(PAUSE)
            ours()

        self.benchmark.pedantic(ours, setup=before, rounds=turns * IN_A_ROW, iterations=1)
        own = np.array(self.benchmark.stats.stats.data).reshape(turns, IN_A_ROW).mean(1)
        return {"ours": own, **{name: np.array(values) for name, values in times.items()}}

    def _affordable(self, calls: list[Call]) -> int:
        """The turns that fit into the seconds; every call is made twice to see."""
        for call in calls:
            call()
        turn = sum((IN_A_ROW + 1) * _timed(call) + PAUSE for call in calls)
        return int(np.clip(self.seconds / turn, FEWEST, MOST))


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
