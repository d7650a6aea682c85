"""A wrong adapter fails the kit: each planted fault makes the tests red that are named for it."""

import os

import faulty_adapters
import pytest
from faulty_adapters import FAULTS, Plugin
from numpy_adapter import NumpyModel

from gradcam_multi.plugins import installed

MODULE = """
from numpy_case import NumpyCase

class TestFaulty(NumpyCase):
    backend = {backend!r}
    unsupported = {unsupported!r}
"""


class Outcomes:
    """Collects what the tests of an inner run came to, by their names without parameters."""

    def __init__(self):
        self.failed, self.passed, self.skipped = set(), set(), set()

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.rpartition("::")[2].partition("[")[0]
        if report.failed:
            self.failed.add(name)
        elif report.skipped:
            self.skipped.add(report.longrepr[2])
        elif report.when == "call":
            self.passed.add(name)


def run_kit(folder, model, tests, unsupported=()):
    """Run the named tests of the kit on a model class, in this process."""
    file = folder / f"{folder.name}_kit.py"  # a name of its own: modules are kept by name
    file.write_text(MODULE.format(backend="faulty", unsupported=dict(unsupported)))
    manager, outcomes = installed().manager, Outcomes()
    manager.register(Plugin(model), name="faulty")
    options = ["-c", os.devnull, "--rootdir", str(folder), "--import-mode=importlib", "-s"]
    plain = ["-p", "no:terminal", "-p", "no:cacheprovider"]
    # Token networks need nothing here that the others lack.
    chosen = " or ".join(tests)
    try:
        pytest.main([*options, *plain, "-k", f"({chosen}) and not token", str(file)], [outcomes])
    finally:
        manager.unregister(name="faulty")
    return outcomes


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_seen(name, tmp_path):
    fault = FAULTS[name]
    assert run_kit(tmp_path, fault.model, fault.red).failed == set(fault.red)


def test_without_a_fault_the_same_tests_are_green(tmp_path):
    tests = {test for fault in FAULTS.values() for test in fault.red}
    outcomes = run_kit(tmp_path, NumpyModel, sorted(tests))
    assert not outcomes.failed
    assert outcomes.passed == tests


def test_what_is_unsupported_is_a_skip_with_its_reason(tmp_path):
    tests = [faulty_adapters.NUMBERS, "test_the_reasons"]
    outcomes = run_kit(tmp_path, NumpyModel, tests, {"nested": "there are no modules"})
    assert outcomes.skipped == {"Skipped: faulty has no 'nested' network: there are no modules"}
    assert not outcomes.failed


@pytest.mark.parametrize("unsupported", [{"nestled": "no such network"}, {"nested": " "}])
def test_what_is_unsupported_without_a_name_or_reason_is_red(tmp_path, unsupported):
    assert run_kit(tmp_path, NumpyModel, ["test_the_reasons"], unsupported).failed


def test_each_of_the_faults_kit_tests_exists():
    from numpy_case import NumpyCase

    named = {v for k, v in vars(faulty_adapters).items() if k.isupper() and isinstance(v, str)}
    assert named <= set(dir(NumpyCase))
    assert named == {test for fault in FAULTS.values() for test in fault.red}
