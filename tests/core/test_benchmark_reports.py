import json
import sys
from pathlib import Path

import measuring
import numpy as np
import pytest
from growth import fitted
from records import environment, key, load, merge

ROOT = Path(__file__).parents[2]


@pytest.fixture
def by_package(monkeypatch):
    """The report is run as a module of its folder's parent: python -m benchmarks.report."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


def one(**changes):
    record = {
        "experiment": "gradcam", "framework": "onnx", "version": "1.31", "model": "ResNet-50",
        "batch": 8, "method": "gradcam", "who": "gradcam-multi", "unit": "ms", "median": 11.0,
        "quartiles": [10.0, 12.0], "plain": 10.0, "ratio": 1.1, "spread": [1.0, 1.25], "turns": 9,
    }  # fmt: skip
    return record | changes


def test_a_later_record_replaces_the_earlier_of_its_key(tmp_path):
    path = tmp_path / "r" / "cpu.json"
    merge(path, [one(), one(batch=1)])
    merge(path, [one(median=7.0, ratio=0.7)])
    environments, records = load(path)
    assert [(r["batch"], r["median"]) for r in records] == [(1, 11.0), (8, 7.0)]
    assert environments == [environment()]
    assert len({key(r) for r in records}) == 2
    assert {r["environment"] for r in records} == {0}


def test_environments_that_no_record_names_are_dropped(tmp_path):
    path = tmp_path / "cpu.json"
    stale = {"processor": "another"}
    old = [one(environment=0, date="2020-01-01"), one(batch=1, environment=1, date="2020-01-01")]
    path.write_text(json.dumps({"environments": [stale, {"processor": "third"}], "records": old}))
    merge(path, [one()])
    environments, records = load(path)
    assert environments == [{"processor": "third"}, environment()]
    assert [r["environment"] for r in records] == [0, 1]


def test_an_environment_names_no_host_and_no_path():
    text = json.dumps(environment())
    import platform

    assert platform.node() not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize(("fixed", "exponent"), [(0.0, 1.0), (3.0, 1.0), (3.0, 1.5), (0.0, 0.5)])
def test_a_law_is_found_again(fixed, exponent):
    sizes = [1, 4, 16, 64, 128]
    law = fitted(sizes, [fixed + 0.25 * size**exponent for size in sizes])
    # Exact data: what is left is the rounding of the least squares.
    np.testing.assert_allclose(law[:3], [fixed, 0.25, exponent], rtol=1e-6, atol=1e-6)
    assert law.error < 1e-6
    assert (law.least, law.most) == (law.exponent, law.exponent)


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_the_exponents_that_prices_allow(exponent):
    """Of 200 series with errors of 10 %, as those measured, nearly 19 of 20 allow the true one."""
    rng = np.random.default_rng(0)
    sizes = np.array([64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048], float)
    prices = 0.2 + (sizes / 2048) ** exponent
    laws = [fitted(sizes, prices * (1 + 0.1 * rng.normal(size=len(sizes)))) for _ in range(200)]
    allowed = np.mean([law.least - 1e-9 <= exponent <= law.most + 1e-9 for law in laws])
    assert 0.9 <= allowed <= 0.99  # 95 %, and three standard errors of 200 series
    worse_than_linear = np.mean([law.least > 1 for law in laws])
    assert worse_than_linear <= 0.06 if exponent == 1 else worse_than_linear >= 0.95


def test_what_does_not_grow_has_no_slope():
    law = fitted([1, 10, 100, 1000], [5.0, 5.0, 5.0, 5.0])
    assert law.slope == pytest.approx(0, abs=1e-9)
    assert law.fixed == pytest.approx(5)


def test_three_sizes_are_no_law():
    with pytest.raises(ValueError, match="four sizes"):
        fitted([1, 2, 3], [1.0, 2.0, 3.0])


def test_report(tmp_path, by_package):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    from benchmarks import report

    merge(tmp_path / "cpu.json", [
        one(), one(model="VGG-16", ratio=1.3, median=13.0), one(batch=1),
        one(who="peer", median=33.0, ratio=3.3, slower=3.0, ours=11.0),
        one(version="1.9", median=99.0),  # older than 1.31, though it sorts after it
        *(
            one(experiment="growth", method="classes", size=size, median=size + 1.0)
            for size in (10, 100, 1000, 10000)
        ),
    ])  # fmt: skip
    report.main("cpu", tmp_path)
    text = (tmp_path / "cpu.md").read_text()
    assert "| ResNet-50 | 10.0 | 11.0 | 1.10 (1.00 to 1.25) | 3.00 |" in text
    assert "| Grad-CAM / inference, onnx, batch 8, median | at most 1.05 | 1.2 | 2 | no |" in text
    assert "| any peer / ours, every network and method, least | at least 1 | 3 | 1 | yes |" in text
    assert "| exponent of growth, least allowed, worst | at most 1 | 1 | 1 | yes |" in text
    assert "| the same without 2 ms, onnx, batch 1, worst | at most 1.15 | 0.9 | 1 | yes |" in text
    assert "| median |  |  | 1.20 | 3.00 |" in text
    assert "| onnx | classes | Grad-CAM | 10 to 10000 | 1.00 | 1.00 (1.00 to 1.00) | 0 % |" in text
    assert "99.0" not in text
    assert (tmp_path / "cpu_prices.png").stat().st_size > 1000
    assert (tmp_path / "cpu_growth.png").stat().st_size > 1000


def test_the_readme_shows_what_was_saved(by_package):
    from benchmarks import readme

    text = readme.README.read_text()
    # Where this fails: python -m benchmarks.report cpu
    assert (
        readme.replaced(text, readme.section(*load(ROOT / "benchmarks/results/cpu.json"))) == text
    )


def test_the_readme_holds_medians_over_networks(by_package):
    from benchmarks import readme

    text = readme.section([environment()], [
        record | {"date": "2026-11-23"}
        for record in (
            one(), one(model="VGG-16", ratio=1.3), one(model="VGG-16", batch=1, ratio=1.5),
            one(framework="torch", ratio=1.04), one(framework="torch", who="peer", slower=3.0),
            one(framework="torch", model="VGG-16", who="peer", slower=2.0),
            one(experiment="onnx-peers", who="peer", ratio=0.25),
            one(experiment="onnx-peers", who="another", ratio=0.2),
        )
    ])  # fmt: skip
    assert "| network | ONNX Runtime, 1 | ONNX Runtime, 8 | PyTorch, 8 |" in text
    assert "| ResNet-50 |  | 1.10 | 1.04 |" in text
    assert "| VGG-16 | 1.50 | 1.30 |  |" in text
    assert "| median | 1.50 | 1.20 | 1.04 |" in text
    assert "| peer, PyTorch |  | 2.50 |  |" in text
    assert "| PyTorch's fastest beside ours by ONNX Runtime |  | 4.00 |  |" in text


def test_a_readme_without_its_markers_is_refused(by_package):
    from benchmarks.readme import BEGIN, END, replaced

    assert replaced(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\nnew\n{END} b"
    with pytest.raises(ValueError, match="no place for the table"):
        replaced(f"a {BEGIN} b", "new")


class Clock:
    """Time that passes in calls and pauses only, and pytest-benchmark's part of timing them."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        for name in ("perf_counter", "sleep"):
            monkeypatch.setattr(measuring.time, name, getattr(self, name))
        self.stats = self
        self.data = []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.calls.append("pause")
        self.now += seconds

    def call(self, name, seconds):
        def run():
            self.calls.append(name)
            self.now += seconds

        return run

    def pedantic(self, ours, setup, rounds, iterations):
        assert iterations == 1
        for _ in range(rounds):
            setup()
            start = self.now
            ours()
            self.data.append(self.now - start)


def test_calls_take_turns_after_a_pause_and_one_that_is_not_counted(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"plain": clock.call("plain", 0.1), "peer": clock.call("peer", 2.0)}
    times = measuring.Turns(clock, 1, 3)(clock.call("ours", 0.2), calls)
    turn = ["pause", *["plain"] * 3, "pause", "peer", "pause", *["ours"] * 3]
    assert clock.calls == [*["ours"] * 2, *["plain"] * 2, *["peer"] * 2, *turn * 3]
    for who, seconds in {"ours": 0.2, "plain": 0.1, "peer": 2.0}.items():
        np.testing.assert_allclose(times[who], [seconds] * 3)


@pytest.mark.parametrize(
    ("ours", "seconds", "turns"),
    [
        (0.01, 30, measuring.MOST),
        (0.1, 10, 12),
        (3.0, 10, measuring.FEWEST),
        (12.0, 10, measuring.FEWEST - 1),
    ],
)
def test_turns_are_as_many_as_fit(monkeypatch, ours, seconds, turns):
    """Of 0.1 seconds: 3 calls and a pause each for ours and another, 0.8 seconds a turn."""
    clock = Clock(monkeypatch)
    times = measuring.Turns(clock, seconds, None)(
        clock.call("ours", ours), {"plain": clock.call("plain", ours)}
    )
    assert len(times["ours"]) == turns
