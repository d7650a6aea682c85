import json
import sys
from pathlib import Path

import numpy as np
import pytest
from growth import fitted
from records import environment, key, load, merge

ROOT = Path(__file__).parents[2]


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


def test_what_does_not_grow_has_no_slope():
    law = fitted([1, 10, 100], [5.0, 5.0, 5.0])
    assert law.slope == pytest.approx(0, abs=1e-9)
    assert law.fixed == pytest.approx(5)


def test_two_sizes_are_no_law():
    with pytest.raises(ValueError, match="three sizes"):
        fitted([1, 2], [1.0, 2.0])


def test_report(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from benchmarks import report

    merge(tmp_path / "cpu.json", [
        one(), one(model="VGG-16", ratio=1.3, median=13.0),
        one(who="peer", median=33.0, ratio=3.3, slower=3.0, ours=11.0),
        one(version="1.9", median=99.0),  # older than 1.31, though it sorts after it
        *(
            one(experiment="growth", method="classes", size=size, median=size + 1.0)
            for size in (10, 100, 1000)
        ),
    ])  # fmt: skip
    report.main("cpu", tmp_path)
    text = (tmp_path / "cpu.md").read_text()
    assert "| ResNet-50 | 10.0 | 11.0 | 1.10 (1.00 to 1.25) | 3.00 |" in text
    assert "| median |  |  | 1.20 | 3.00 |" in text
    assert "| onnx | classes | Grad-CAM | 10 to 1000 | 1.00 | 1.00 | 0 % |" in text
    assert "99.0" not in text
    assert (tmp_path / "cpu_prices.png").stat().st_size > 1000
    assert (tmp_path / "cpu_growth.png").stat().st_size > 1000
