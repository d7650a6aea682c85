"""What comes before the second explanation: imports, opening, the first call, a cold start."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from adapters import FRAMEWORKS, opened
from inference import function_call, session_call
from measuring import compared
from networks import NETWORKS, inputs

from gradcam_multi import Explainer

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # random weights

PROCESSES = 11  # of each kind, in turn, after one that is not counted

IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
PLAIN = """
import numpy, onnxruntime
session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
session.run(None, {{"x": numpy.load({data!r})}})
"""
OURS = """
import numpy, gradcam_multi
gradcam_multi.explain({path!r}, numpy.load({data!r}), 0).heatmap
"""


def alternated(*commands: list[str], printed: bool = False) -> np.ndarray:
    """Return seconds, (processes, commands): of the whole process, or what it printed."""
    # Bytecode is kept, as it is where a package is installed.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    rows = []
    for _ in range(PROCESSES + 1):
        row = []
        for command in commands:
            start = time.perf_counter()
            out = subprocess.check_output(command, env=environment, stderr=subprocess.DEVNULL)
            row.append(float(out) if printed else time.perf_counter() - start)
        rows.append(row)
    return np.array(rows[1:])


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_import(record):
    """Beside NumPy, which it imports."""
    numpy, ours = alternated(
        python(IMPORT.format("numpy")), python(IMPORT.format("gradcam_multi")), printed=True
    ).T
    record("start", compared(ours, numpy), who="gradcam-multi", method="import")


def test_help(record):
    """Beside an interpreter that does nothing."""
    nothing, ours = alternated(python("pass"), [sys.executable, "-m", "gradcam_multi", "--help"]).T
    record("start", compared(ours, nothing), who="gradcam-multi", method="gradcam --help")


@pytest.mark.parametrize("name", ["ResNet-50", "MobileNetV2"])
def test_cold_start(name, record, tmp_path: Path):
    """A process that explains one picture by ONNX, beside one that loads and runs the session."""
    model = opened("onnx", name).model
    path, data = str(tmp_path / "model.onnx"), str(tmp_path / "picture.npy")
    Path(path).write_bytes(model)
    np.save(data, inputs(1))
    codes = [python(code.format(path=path, data=data)) for code in (PLAIN, OURS)]
    plain, ours = alternated(*codes).T
    record(
        "start", compared(ours, plain), model=name, framework="onnx", who="gradcam-multi",
        method="cold start",
    )  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_first_call(framework, name, record):
    """Opening with the first explanation, beside what plain inference needs for its first."""
    network = opened(framework, name)
    x = network.layout(inputs(1))

    def plain() -> None:
        make = {"onnx": session_call, "tensorflow": function_call}.get(framework)
        (make(network.model) if make else network.plain)(x)

    def steps() -> tuple[float, float, float]:
        times = [time.perf_counter()]
        explainer = Explainer(network.model)
        times.append(time.perf_counter())
        for _ in range(2):
            explainer(x, 0).heatmap  # noqa: B018, made when it is asked for
            times.append(time.perf_counter())
        return tuple(np.diff(times))

    rows = []
    for _ in range(4):
        start = time.perf_counter()
        plain()
        rows.append((time.perf_counter() - start, *steps()))
    first, *ours = np.array(rows[1:]).T
    about = {"model": name, "framework": framework, "who": "gradcam-multi", "batch": 1}
    for method, values in zip(("opening", "first call", "second call"), ours, strict=True):
        record("first", compared(values, first), method=method, **about)
