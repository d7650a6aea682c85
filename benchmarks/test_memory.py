"""Peak memory of Grad-CAM beside that of plain inference, each in a process of its own."""

import os
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from adapters import FRAMEWORKS, opened
from measuring import compared
from networks import NETWORKS

PROCESSES = 3  # of each kind, in turn: some figures vary with the threads that come first
BATCHES = (1, 8, 32)
HERE = Path(__file__).parent


@cache
def model_file(framework: str, name: str, folder: Path) -> Path:
    model, path = opened(framework, name).model, folder / f"{framework}-{name}"
    if framework == "onnx":
        path = path.with_suffix(".onnx")
        path.write_bytes(model)
    elif framework == "tensorflow":
        path = path.with_suffix(".keras")
        model.save(path)
    else:
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(model, path)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_peak(framework, name, batch, record, tmp_path_factory):
    if (framework, name) == ("tensorflow", "ViT-S"):
        pytest.skip("its layers of tokens are not saved with their settings")
    path = model_file(framework, name, tmp_path_factory.getbasetemp())
    peaks = np.array([[measured(framework, path, batch, kind) for kind in ("plain", "ours")]
                      for _ in range(PROCESSES)])  # fmt: skip
    record(
        "memory", compared(peaks[:, 1], peaks[:, 0], unit=1), unit="MB", model=name,
        framework=framework, batch=batch, who="gradcam-multi", method="gradcam",
    )  # fmt: skip


def measured(framework: str, path: Path, batch: int, kind: str) -> float:
    """Return megabytes of one process."""
    command = [sys.executable, HERE / "memory.py", framework, path, str(batch), kind]
    return float(subprocess.check_output(command, env=os.environ).split()[-1])
