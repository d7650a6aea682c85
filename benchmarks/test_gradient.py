"""A gradient alone by ONNX, without maps or checks of inputs, beside a session: time, building.

Memory is in test_memory.py, which has the same networks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from adapters import opened
from inference import session_call
from networks import CLASSES, CONVOLUTIONAL, inputs

from gradcam_multi.layers import final_feature_map


def last_feature_map(model: Any) -> str:
    return final_feature_map(model.layers(), model.outputs[0].name).name


def first_convolution(model: Any) -> str:
    return next(layer.name for layer in model.layers() if layer.role == "conv")


def gradient(model: Any, layer: str, x: np.ndarray) -> Callable[[], None]:
    """Return a call that gives the gradient of one class's score at a layer."""
    (output,) = (spec.name for spec in model.outputs)
    cotangent = np.eye(CLASSES, dtype=np.float32)[np.arange(len(x))]

    def call() -> None:
        with model.trace(x, [layer]) as trace:
            trace.vjp({output: cotangent})

    return call


def priced(name: str, batch: int, layer: Callable[[Any], str], turns: Any) -> dict[str, np.ndarray]:
    network, x = opened("onnx", name), inputs(batch)
    from gradcam_multi_onnx.plugin import gradcam_multi_open

    model = gradcam_multi_open(network.model)
    return turns(gradient(model, layer(model), x), {"plain": lambda: network.plain(x)})


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_onnx_at_the_final_feature_map(name, batch, turns, record_turns):
    times = priced(name, batch, last_feature_map, turns)
    record_turns("gradient", times, model=name, framework="onnx", batch=batch, size="final map")


@pytest.mark.parametrize("name", ["ResNet-18", "ResNet-50", "EfficientNet-B0"])
def test_onnx_at_the_first_convolution(name, turns, record_turns):
    times = priced(name, 1, first_convolution, turns)
    record_turns("gradient", times, model=name, framework="onnx", batch=1, size="first layer")


def test_onnx_building(turns, record_turns):
    """The gradient graph of ResNet-50 (102 MB) with its sessions, unchecked, beside a session."""
    data = opened("onnx", "ResNet-50").model
    from gradcam_multi_onnx.plan import make_plan
    from gradcam_multi_onnx.plugin import gradcam_multi_open

    model = gradcam_multi_open(data)
    chosen, logits = last_feature_map(model), {s.name: s.name for s in model.outputs}
    times = turns(
        lambda: make_plan(model._graph, (chosen,), logits, lambda: model._graph),
        {"plain": lambda: session_call(data)},
    )
    record_turns("gradient", times, model="ResNet-50", framework="onnx", size="building")


def test_onnx_opening(turns, record_turns):
    """Opening, checking and the first gradient, beside a session and its first run."""
    data, x = opened("onnx", "ResNet-50").model, inputs(1)
    from gradcam_multi_onnx.plugin import gradcam_multi_open

    def ours() -> None:
        model = gradcam_multi_open(data)
        gradient(model, last_feature_map(model), x)()

    times = turns(ours, {"plain": lambda: session_call(data)(x)})
    record_turns("gradient", times, model="ResNet-50", framework="onnx", batch=1, size="opening")
