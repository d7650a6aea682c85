"""A gradient alone, without maps or checks of inputs, beside a plain ONNX Runtime session."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from adapters import opened
from networks import CLASSES, CONVOLUTIONAL, inputs

from gradcam_multi.layers import final_feature_map


def last_feature_map(model: Any) -> str:
    return final_feature_map(model.layers(), model.outputs[0].name).name


def first_convolution(model: Any) -> str:
    return next(layer.name for layer in model.layers() if layer.role == "conv")


def priced(name: str, batch: int, layer: Callable[[Any], str], turns: Any) -> dict[str, np.ndarray]:
    network = opened("onnx", name)
    from gradcam_multi_onnx.plugin import gradcam_multi_open

    model, x = gradcam_multi_open(network.model), inputs(batch)
    chosen, (output,) = layer(model), (spec.name for spec in model.outputs)
    cotangent = np.eye(CLASSES, dtype=np.float32)[np.arange(batch)]

    def gradient() -> None:
        with model.trace(x, [chosen]) as trace:
            trace.vjp({output: cotangent})

    return turns(gradient, {"plain": lambda: network.plain(x)})


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_at_the_final_feature_map(name, batch, turns, record_turns):
    times = priced(name, batch, last_feature_map, turns)
    record_turns("gradient", times, model=name, framework="onnx", batch=batch, size="final map")


@pytest.mark.parametrize("name", ["ResNet-50", "EfficientNet-B0"])
def test_at_the_first_convolution(name, turns, record_turns):
    times = priced(name, 1, first_convolution, turns)
    record_turns("gradient", times, model=name, framework="onnx", batch=1, size="first layer")
