"""The price of methods that run the model again, beside as many plain inferences.

Score-CAM on SqueezeNet: 512 channels at 224x224, in batches of the same size as the plain runs';
Ablation-CAM replays from the layer on, and stands beside plain inference all the same. Plain runs
and explanations take turns; compared are medians. No time is asserted: read the table.
"""

import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from price import INPUTS

from gradcam_multi import Explainer

MODELS = Path(__file__).parents[2] / "shared" / "data" / "models"
CHANNELS, ROUNDS = 512, 5
BATCHES = {"onnx": 1, "torch": 32}  # the file takes one picture at a time
pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="../shared/data is not beside this")


def plain_and_model(adapter: str) -> tuple[Any, Any]:
    """Return what runs the network on a batch as often as there are channels, and the network."""
    batch = np.repeat(INPUTS[:1], BATCHES[adapter], 0)
    runs = range(CHANNELS // len(batch))
    if adapter == "onnx":
        import onnxruntime

        path = str(MODELS / "squeezenet1_1.onnx")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: [session.run(None, {name: batch}) for _ in runs], path
    import torch
    from architectures_torch import squeezenet

    module, tensor = squeezenet(MODELS / "squeezenet1_1.pth").eval(), torch.from_numpy(batch)

    def plain() -> None:
        with torch.inference_mode():
            for _ in runs:
                module(tensor)

    return plain, module


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
@pytest.mark.parametrize("adapter", BATCHES)
def test_against_512_plain_inferences(adapter: str, method: str, record_property: Any) -> None:
    pytest.importorskip("onnxruntime" if adapter == "onnx" else adapter)
    plain, model = plain_and_model(adapter)
    explainer = Explainer(model, method=method)
    times = np.empty((ROUNDS, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # noise may leave a map without evidence
        cost = explainer(INPUTS[:1], 1).cost
        for row in times:
            for column, call in enumerate((plain, lambda: explainer(INPUTS[:1], 1))):
                start = time.perf_counter()
                call()
                row[column] = time.perf_counter() - start
    assert cost >= CHANNELS
    low, high = np.percentile(times[:, 1] / times[:, 0], [25, 75])
    middle = 1e3 * np.median(times, 0)
    row = {
        "model": f"512 x {method}", "adapter": adapter, "batch": BATCHES[adapter],
        "plain": float(middle[0]), "ours": float(middle[1]), "ratio": float(middle[1] / middle[0]),
        "spread": f"{low:.2f} to {high:.2f}",
    }  # fmt: skip
    for name, value in row.items():
        record_property(name, value)


def test_memory(record_property: Any) -> None:
    """Megabytes where the table says ms: a process that explains once by Grad-CAM, by Score-CAM."""
    script = str(Path(__file__).with_name("peak_memory.py"))
    path = str(MODELS / "squeezenet1_1.onnx")
    peaks = [
        float(subprocess.check_output([sys.executable, script, path, kind]).split()[-2])
        for kind in ("ours", "scorecam")
    ]
    row = {
        "model": "peak MB", "adapter": "onnx", "batch": 1, "plain": peaks[0], "ours": peaks[1],
        "ratio": peaks[1] / peaks[0], "spread": "-",
    }  # fmt: skip
    for name, value in row.items():
        record_property(name, value)
