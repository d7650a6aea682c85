"""The price of an explanation: Grad-CAM on ResNet-50 at 224x224 against plain inference.

Plain and explained runs take turns in one process, so that whatever else the machine does falls on
both; compared are medians. No time is asserted: read the table.
"""

import time
import warnings

import numpy as np
import pytest
from price import INPUTS, PAIRS

ROUNDS = {1: 40, 8: 15}  # by batch: the shorter the run, the more of them steady the median


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    modules = {"onnx": "onnxruntime"}
    pytest.importorskip(modules.get(request.param, request.param), reason="not installed")
    return request.param, PAIRS[request.param]()


@pytest.mark.parametrize("batch", [1, 8])
def test_gradcam_on_resnet50(benchmark, record_property, pair, batch):
    adapter, calls = pair
    inputs = calls.layout(INPUTS[:batch])
    plain = []

    def plain_first():
        start = time.perf_counter()
        calls.plain(inputs)
        plain.append(time.perf_counter() - start)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights may leave a map without evidence
        for _ in range(3):
            calls.plain(inputs)
            calls.explain(inputs)
        benchmark.pedantic(
            calls.explain, args=(inputs,), setup=plain_first, rounds=ROUNDS[batch], iterations=1
        )
    ours = benchmark.stats.stats.data
    assert len(plain) == len(ours) == ROUNDS[batch]
    ratios = np.array(ours) / np.array(plain)
    low, high = np.percentile(ratios, [25, 75])
    figures = {
        "model": "ResNet-50",
        "adapter": adapter,
        "batch": batch,
        "plain": 1e3 * float(np.median(plain)),
        "ours": 1e3 * float(np.median(ours)),
        "ratio": float(np.median(ours) / np.median(plain)),
        "spread": f"{low:.2f} to {high:.2f}",
    }
    benchmark.extra_info.update(figures)
    for name, value in figures.items():
        record_property(name, value)
