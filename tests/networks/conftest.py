"""All frameworks and exporters in one process; each network is exported once for all tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

for name in ("torch", "tensorflow", "keras", "onnx", "onnxscript", "onnxruntime", "tf2onnx"):
    pytest.importorskip(name, reason=f"{name} is not installed; tox -e parity installs all")

import exports_keras
import exports_torch
from catalogue import BY_KERAS, CASES, KERAS, TORCH_NEW
from coverage_table import Recorder
from known_findings import EXPORTER_FAILS


@pytest.fixture(scope="session")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close(CASES)


@pytest.fixture(scope="session")
def exported_by_torch() -> Callable[[str, str, int], bytes]:
    """Takes a network's name, an exporter and the seed of the weights."""

    @cache
    def exported(network: str, exporter: str, seed: int) -> bytes:
        described = exports_torch.NETWORKS[network]
        module = exports_torch.built(described, seed)
        return exports_torch.exported(described, module, new=exporter == TORCH_NEW)

    return exported


@pytest.fixture(scope="session")
def exported_by_keras(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Keras chooses its backend once in a process: torch needs one of its own."""
    folder = tmp_path_factory.mktemp("keras")
    names = [name for name in BY_KERAS if (name, KERAS) not in EXPORTER_FAILS]
    script = Path(exports_keras.__file__).with_name("export_keras_by_torch.py")
    run = subprocess.run(
        [sys.executable, str(script), str(folder), *names],
        capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": "torch"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return lambda name: (folder / f"{name}.onnx").read_bytes()
