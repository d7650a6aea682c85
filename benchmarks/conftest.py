"""What the benchmarks share: how long to measure, the table below the run, and the saved JSON."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from measuring import Turns, compared
from records import RESULTS, Record, merge, runtime

FOUND = pytest.StashKey[list[Record]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("benchmarks of gradcam_multi")
    group.addoption("--seconds", type=float, default=2, help="aimed at for each case")
    group.addoption("--turns", type=int, help="turns of each case, whatever it takes")
    group.addoption("--save", metavar="NAME", help="merge into benchmarks/results/NAME.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FOUND] = []


@pytest.fixture
def turns(benchmark: Any, request: pytest.FixtureRequest) -> Turns:
    return Turns(benchmark, request.config.option.seconds, request.config.option.turns)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep a record; what it is about by keywords, the figures as `compared` gives them."""

    def keep(experiment: str, figures: dict[str, Any], *, unit: str = "ms", **about: Any) -> None:
        if "framework" in about:
            about["version"] = runtime(about["framework"])
        found = {"experiment": experiment, **about, "unit": unit, **figures}
        request.config.stash[FOUND].append(found)
        if name := request.config.option.save:  # at once: a run that is cut short keeps what it has
            merge(RESULTS / f"{name}.json", [found])

    return keep


@pytest.fixture
def record_turns(record: Callable[..., None]) -> Callable[..., None]:
    """Keep one record for each who takes turns beside its plain inference."""

    def keep(
        experiment: str, values: dict[str, np.ndarray], plain: str = "plain", *,
        unit: str = "ms", **about: Any,
    ) -> None:  # fmt: skip
        factor = 1e3 if unit == "ms" else 1
        for who, found in values.items():
            if who != plain:
                figures = compared(found, values[plain], factor)
                if "ours" in values and who != "ours":
                    ours = float(np.median(values["ours"]))
                    figures |= {"ours": factor * ours, "slower": float(np.median(found)) / ours}
                name = "gradcam-multi" if who == "ours" else who
                record(experiment, figures, unit=unit, who=name, **about)

    return keep


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.pop("node", None)  # results name no host


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = terminalreporter.config.stash[FOUND]
    if not found:
        return
    terminalreporter.section("beside plain inference: medians of turns")
    about = ("experiment", "model", "framework", "who", "method", "batch", "size")
    widths = (12, 16, 12, 14, 20, 6, 8)
    names = "".join(f"{name:{width}}" for name, width in zip(about, widths, strict=True))
    terminalreporter.write_line(
        f"{names}{'plain':>11}{'median':>11}{'unit':>5}{'ratio':>8}  spread"
    )
    for row in found:
        text = "".join(
            f"{row.get(name, '')!s:{width}}" for name, width in zip(about, widths, strict=True)
        )
        plain, ratio, spread = (row.get(name) for name in ("plain", "ratio", "spread"))
        text += f"{plain:11.2f}" if plain is not None else f"{'':11}"
        text += f"{row['median']:11.2f}{row['unit']:>5}"
        text += f"{ratio:8.3f}" if ratio is not None else ""
        text += f"  {spread[0]:.2f} to {spread[1]:.2f}" if spread else ""
        terminalreporter.write_line(text)
