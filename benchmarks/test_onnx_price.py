"""The price of a gradient beside a plain ONNX Runtime session: time, building, memory.

Plain runs and gradients take turns; compared are medians. No time is asserted: read the table.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradcam_multi_onnx.plugin import gradcam_multi_open
from price import INPUTS

from gradcam_multi.layers import final_feature_map

pytestmark = pytest.mark.skipif(
    None in map(find_spec, ("onnx", "onnxruntime", "torch")), reason="needs onnx and PyTorch"
)

CLASSIFIERS = ("ResNet-50", "MobileNetV2", "DenseNet-121", "EfficientNet-B0", "VGG-16")
SECONDS = 12  # of plain runs and gradients together, per case
FEWEST, MOST = 6, 90
PAUSE, IN_A_ROW = 0.05, 3  # seconds, calls
PROCESSES = 3  # of each kind, for the rows on memory


@cache
def model_file(name: str) -> bytes:
    from onnx_models import exported

    return exported(name)


def session_of(data: bytes) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def interleaved(plain: Callable[[], Any], ours: Callable[[], Any]) -> np.ndarray:
    """Return seconds, (rounds, 2).

    A few calls of each in a row, the first of them not counted, after a pause: the threads of a
    session that has just run spin for a while, and would take the cores from the other.
    """
    times: list[tuple[float, ...]] = []
    plain()
    ours()
    end = time.perf_counter() + SECONDS
    while len(times) < FEWEST or (time.perf_counter() < end and len(times) < MOST):
        columns = []
        for call in (plain, ours):
            time.sleep(PAUSE)
            call()
            columns.append([_timed(call) for _ in range(IN_A_ROW)])
        times += zip(*columns, strict=True)
    return np.array(times)


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def record(record_property: Any, model: str, what: str, batch: int, times: np.ndarray) -> None:
    """Hand a row to the table: milliseconds, their ratio, and its quartiles over the rounds."""
    plain, ours = np.median(times, 0)
    low, high = np.percentile(times[:, 1] / times[:, 0], [25, 75])
    row = {
        "model": model, "adapter": what, "batch": batch, "plain": 1e3 * float(plain),
        "ours": 1e3 * float(ours), "ratio": float(ours / plain),
        "spread": f"{low:.2f} to {high:.2f}",
    }  # fmt: skip
    for name, value in row.items():
        record_property(name, value)


def priced(name: str, batch: int, layer: Callable[[Any], str]) -> np.ndarray:
    data = model_file(name)
    session, model = session_of(data), gradcam_multi_open(data)
    x, chosen = INPUTS[:batch], layer(model)
    (output,) = (spec.name for spec in model.outputs)
    cotangent = np.eye(1000, dtype=np.float32)[np.arange(batch)]

    def gradient() -> None:
        with model.trace(x, [chosen]) as trace:
            trace.vjp({output: cotangent})

    return interleaved(lambda: session.run(None, {"x": x}), gradient)


def last_feature_map(model: Any) -> str:
    return final_feature_map(model.layers(), model.outputs[0].name).name


def first_convolution(model: Any) -> str:
    return next(layer.name for layer in model.layers() if layer.role == "conv")


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_gradient_at_the_last_feature_map(name: str, batch: int, record_property: Any) -> None:
    record(record_property, name, "last map", batch, priced(name, batch, last_feature_map))


@pytest.mark.parametrize("name", ["ResNet-18", "EfficientNet-B0"])
def test_gradient_at_the_first_convolution(name: str, record_property: Any) -> None:
    record(record_property, name, "first conv", 1, priced(name, 1, first_convolution))


def test_building(record_property: Any) -> None:
    """A session of ResNet-50 (102 MB) against the gradient graph and its sessions, unchecked."""
    from gradcam_multi_onnx.plan import make_plan

    data = model_file("ResNet-50")
    model = gradcam_multi_open(data)
    chosen, logits = last_feature_map(model), {s.name: s.name for s in model.outputs}
    times = interleaved(
        lambda: session_of(data),
        lambda: make_plan(model._graph, (chosen,), logits, lambda: model._graph),
    )
    record(record_property, "ResNet-50", "building", 1, times)


def test_opening(record_property: Any) -> None:
    """A session and its first run against opening, checking and the first gradient."""
    data = model_file("ResNet-50")

    def ours() -> None:
        model = gradcam_multi_open(data)
        with model.trace(INPUTS[:1], [last_feature_map(model)]) as trace:
            trace.vjp({model.outputs[0].name: np.eye(1, 1000, dtype=np.float32)})

    times = interleaved(lambda: session_of(data).run(None, {"x": INPUTS[:1]}), ours)
    record(record_property, "ResNet-50", "opening", 1, times)


MEMORY = ("imports MB", "peak MB", "steady MB", "peak w/o", "steady w/o")
"""Rows in MB where the table says ms; the last two are without the imports."""


@pytest.mark.parametrize("row", MEMORY)
@pytest.mark.parametrize("name", ["ResNet-50", "EfficientNet-B0", "VGG-16"])
def test_memory(
    name: str, row: str, tmp_path_factory: pytest.TempPathFactory, record_property: Any
) -> None:
    """Medians of processes that take turns: some figures vary with the threads that come first."""
    figures = memory(name, tmp_path_factory.getbasetemp())[:, :, MEMORY.index(row)]
    record(record_property, name, row, 1, figures / 1e3)


@cache
def memory(name: str, folder: Path) -> np.ndarray:
    """Return megabytes, (processes, plain and ours, rows)."""
    path = folder / f"{name}.onnx"
    path.write_bytes(model_file(name))
    script = str(Path(__file__).with_name("peak_memory.py"))
    found = []
    for _ in range(PROCESSES):
        pair = []
        for kind in ("plain", "ours"):
            printed = subprocess.check_output([sys.executable, script, str(path), kind])
            imports, peak, steady = map(float, printed.split()[-3:])
            pair.append([imports, peak, steady, peak - imports, steady - imports])
        found.append(pair)
    path.unlink()
    return np.array(found)
