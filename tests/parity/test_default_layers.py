"""The default layer is the same tensor in a framework and in its exports, and so is its map."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import exports_keras
import exports_torch
import pytest
from catalogue import BY_KERAS, KERAS, TORCH_CASES, TORCH_NEW
from default_layers import check
from known_findings import EXPORTER_FAILS

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::gradcam_multi.CamWarning",  # a class with evidence against it only: zeros on both
)

CASES = [case for case in TORCH_CASES if case not in EXPORTER_FAILS]


@pytest.mark.parametrize(
    ("network", "exporter"), CASES, ids=["-".join(c).replace(", ", "_") for c in CASES]
)
def test_of_torch_exports(network: str, exporter: str) -> None:
    described = exports_torch.NETWORKS[network]
    module = exports_torch.built(described)
    data = exports_torch.exported(described, module, new=exporter == TORCH_NEW)
    check(module, data, exports_torch.drawn(described, 2))


KERAS_NAMES = [name for name in BY_KERAS if (name, KERAS) not in EXPORTER_FAILS]


@pytest.fixture(scope="module")
def exported_by_keras(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """Keras chooses its backend once in a process: torch needs one of its own."""
    folder = tmp_path_factory.mktemp("keras")
    script = Path(exports_keras.__file__).with_name("export_keras_by_torch.py")
    run = subprocess.run(
        [sys.executable, str(script), str(folder), *KERAS_NAMES],
        capture_output=True, text=True, env={**os.environ, "KERAS_BACKEND": "torch"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return lambda name: (folder / f"{name}.onnx").read_bytes()


@pytest.mark.parametrize("network", KERAS_NAMES)
def test_of_keras_exports(network: str, exported_by_keras: Callable[[str], bytes]) -> None:
    model = exports_keras.built(exports_keras.NETWORKS[network])
    check(model, exported_by_keras(network), exports_keras.drawn(model, 2))
