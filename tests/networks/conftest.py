"""All frameworks and exporters in one process, and the table that is written at the end."""

from collections.abc import Iterator

import pytest

for name in ("torch", "tensorflow", "keras", "onnx", "onnxscript", "onnxruntime", "tf2onnx"):
    pytest.importorskip(name, reason=f"{name} is not installed; tox -e networks installs all")

from catalogue import CASES
from coverage_table import Recorder


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close(CASES)
