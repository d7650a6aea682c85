"""Numbers against eager Keras under a gradient tape, and against finite differences."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import architectures_keras as zoo
import keras
import numpy as np
import pytest
import tensorflow as tf
from gradcam_multi_tensorflow.model import KerasModel

# float32 roundings where graph and eager runs add up in another order (fused kernels).
FLOAT32 = 2e-5
# Layers run in half precision: 2**-11 and 2**-8 a rounding, some ten of them on the way.
FLOAT16, BFLOAT16 = 1e-2, 8e-2


def built(make: Callable[[], Any]) -> Callable[[], Any]:
    def build() -> Any:
        model = make()
        model(np.zeros((1, 16, 16, 3), np.float32))
        return zoo.seeded(model)

    return build


CASES: dict[str, tuple[Callable[[], Any], Any, str, float]] = {
    "resnet": (zoo.small_resnet, (32, 32, 3), "block3_out", FLOAT32),
    "resnet, inner": (zoo.small_resnet, (32, 32, 3), "block1_2_conv", FLOAT32),
    "vgg": (zoo.small_vgg, (32, 32, 3), "conv4", FLOAT32),
    "vgg, pool": (zoo.small_vgg, (32, 32, 3), "pool4", FLOAT32),
    "mobilenet": (zoo.small_mobilenet, (32, 32, 3), "out_relu", FLOAT32),
    "mobilenet, residual": (zoo.small_mobilenet, (32, 32, 3), "block_0_project", FLOAT32),
    "densenet": (zoo.small_densenet, (32, 32, 3), "relu", FLOAT32),
    "squeezenet": (zoo.small_squeezenet, (32, 32, 3), "fire2_concat", FLOAT32),
    "nested two deep": (zoo.transfer, (32, 32, 3), "features/base/out_relu", FLOAT32),
    "subclassed": (built(zoo.Subclassed), (16, 16, 3), "block1", FLOAT32),
    "subclassed, inner": (built(zoo.Subclassed), (16, 16, 3), "block0/conv", FLOAT32),
    "1-D": (zoo.conv1d, (40, 2), "conv2", FLOAT32),
    "3-D": (zoo.conv3d, (6, 10, 8, 1), "conv2", FLOAT32),
    "channels first": (zoo.channels_first, (3, 18, 14), "relu2", FLOAT32),
    "channels first, inner": (zoo.channels_first, (3, 18, 14), "norm", FLOAT32),
    "float16": (zoo.mixed_precision, (16, 16, 3), "conv2", FLOAT16),
    "bfloat16": (lambda: zoo.mixed_precision("mixed_bfloat16"), (16, 16, 3), "conv2", BFLOAT16),
    "raw operations": (zoo.raw_operations, (16, 16, 3), "conv2", FLOAT32),
    "tokens": (zoo.vision_transformer, (32, 32, 3), "norm1a", FLOAT32),
    "attention": (zoo.vision_transformer, (32, 32, 3), "attention0", FLOAT32),
    "loop": (zoo.recurrent, (16, 12, 3), "conv1", FLOAT32),
}


def find(model: Any, path: str) -> Any:
    for name in path.split("/"):
        model = next(part for part in model._layers if part.name == name)
    return model


@contextmanager
def captured(layer: Any, tape: Any) -> Any:
    """Have an eager layer's result watched by a tape, and kept."""
    original, kept = layer.call, []

    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        tape.watch(result)
        kept.append(result)
        return result

    layer.call = call
    try:
        yield kept
    finally:
        layer.call = original


def cotangent_of_logits(outputs: Any, cotangent: Any, activation: str | None) -> Any:
    """Pull a cotangent of the outputs back through a softmax or sigmoid, by its formula."""
    if activation == "softmax":
        return outputs * (cotangent - (outputs * cotangent).sum(-1, keepdims=True))
    return outputs * (1 - outputs) * cotangent if activation == "sigmoid" else cotangent


def close(actual: Any, expected: Any, tolerance: float) -> None:
    scale = float(np.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("case", CASES)
def test_activation_and_gradient_are_those_of_an_eager_tape(case: str) -> None:
    build, shape, path, tolerance = CASES[case]
    model = build()
    rng = np.random.default_rng(3)
    x = rng.normal(size=(3, *shape)).astype(np.float32)
    layer = find(model, path)
    with tf.GradientTape() as tape, captured(layer, tape) as kept:
        y = model(x, training=False)
        cotangent = rng.normal(size=y.shape).astype(np.float32)
    expected = np.asarray(tf.cast(tape.gradient(y, kept[0], cotangent), tf.float32))
    activation = np.asarray(tf.cast(kept[0], tf.float32))
    if "channels first" not in case:
        expected, activation = np.moveaxis(expected, -1, 1), np.moveaxis(activation, -1, 1)

    opened = KerasModel(model)
    with opened.trace(x, [path]) as trace:
        (output,) = trace.outputs
        close(trace.outputs[output], y, tolerance)
        close(trace.activations[0], activation, tolerance)
        pulled = cotangent_of_logits(np.asarray(y), cotangent, opened.outputs[0].activation)
        (gradient,) = trace.vjp({output: pulled})
        close(gradient, expected, tolerance)
        assert gradient.dtype == trace.activations[0].dtype == np.float32
        again = trace.replay(path, trace.activations[0])[output]
        close(again, trace.logits[output], tolerance)


def test_gradient_is_that_of_finite_differences() -> None:
    """Replays with a moved activation, so that no gradient rule is taken on trust."""
    model, rng = zoo.small_resnet(), np.random.default_rng(4)
    x = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    with KerasModel(model).trace(x, ["block2_out"]) as trace:
        cotangent = rng.normal(size=(2, 10)).astype(np.float32)
        (gradient,) = trace.vjp({"predictions": cotangent})
        (activation,) = trace.activations
        direction = rng.normal(size=activation.shape).astype(np.float32)
        direction *= np.abs(activation) > 0.05  # away from the corners of the rectifiers
        step = 1e-3
        ends = [
            trace.replay("block2_out", activation + sign * step * direction)["predictions"]
            for sign in (1, -1)
        ]
    numeric = ((ends[0].astype(np.float64) - ends[1]) * cotangent).sum() / (2 * step)
    # float32 logits near 1 over a step of 2e-3 leave 3 digits; rectifiers that flip, fewer.
    assert numeric == pytest.approx(float((gradient * direction).sum()), rel=2e-2)


def test_a_shared_backbone_has_a_map_for_each_call() -> None:
    model, rng = zoo.siamese(), np.random.default_rng(5)
    left, right = (rng.normal(size=(2, 16, 16, 3)).astype(np.float32) for _ in range(2))
    layer, head = model.get_layer("backbone"), model.get_layer("logits")
    cotangent = rng.normal(size=(2, 4)).astype(np.float32)
    per_side = cotangent @ np.asarray(head.kernel).T / (14 * 14)  # the average's share
    with KerasModel(model).trace((left, right), ["backbone/conv", "backbone/conv#2"]) as trace:
        gradients = trace.vjp({"logits": cotangent})
        for place, x in enumerate((left, right)):
            close(trace.activations[place], np.moveaxis(layer(x), -1, 1), FLOAT32)
            share = per_side[:, 6 * place : 6 * place + 6, None, None]
            close(gradients[place], np.broadcast_to(share, (2, 6, 14, 14)), FLOAT32)
    by_name = {"right": right, "left": left}
    with KerasModel(model).trace(by_name, ["backbone#2"]) as trace:
        close(trace.activations[0], np.moveaxis(layer(right), -1, 1), FLOAT32)


def test_the_total_gradient_of_a_layer_before_another_traced_one() -> None:
    model, rng = zoo.small_vgg(), np.random.default_rng(6)
    x = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    cotangent = rng.normal(size=(2, 10)).astype(np.float32)
    opened = KerasModel(model)
    with opened.trace(x, ["conv4", "conv2"]) as trace:
        both = trace.vjp({"softmax": cotangent})
    for name, gradient in zip(("conv4", "conv2"), both, strict=True):
        with opened.trace(x, [name]) as trace:
            close(trace.vjp({"softmax": cotangent})[0], gradient, FLOAT32)


def test_weights_are_live() -> None:
    model, x = zoo.small_vgg(), np.ones((1, 32, 32, 3), np.float32)
    opened = KerasModel(model)
    cotangent = np.eye(10, dtype=np.float32)[[0]]
    with opened.trace(x, ["conv4"]) as trace:
        before = trace.vjp({"softmax": cotangent})[0]
    logits = model.get_layer("logits")
    logits.set_weights([-2 * weight for weight in logits.get_weights()])
    with opened.trace(x, ["conv4"]) as trace:
        np.testing.assert_allclose(trace.vjp({"softmax": cotangent})[0], -2 * before, rtol=1e-5)


def test_tiny_cotangents_survive_float16() -> None:
    model, x = zoo.mixed_precision(), np.ones((1, 16, 16, 3), np.float32)
    cotangent = np.eye(4, dtype=np.float32)[[1]]
    with KerasModel(model).trace(x, ["conv2"]) as trace:
        expected = trace.vjp({"p": cotangent})[0]
        assert np.abs(expected).max() > 0
        for scale in (2.0**-14, 2.0**10):
            close(trace.vjp({"p": scale * cotangent})[0] / scale, expected, 4 * FLOAT16)


def test_logits_stand_before_the_activation() -> None:
    x = np.random.default_rng(7).normal(size=(2, 8, 8, 3)).astype(np.float32)
    for axis, name in ((-1, "last"), (1, "inner")):
        inputs = keras.Input((8, 8, 3))
        z = keras.layers.Conv2D(4, 3, name="z")(inputs)
        model = keras.Model(inputs, keras.layers.Softmax(axis=axis, name=name)(z))
        opened = KerasModel(model)
        assert opened.outputs[0].activation == "softmax"
        with opened.trace(x, ["z"]) as trace:
            close(trace.logits[name], np.moveaxis(trace.activations[0], 1, -1), FLOAT32)
            raised = np.exp(trace.logits[name])
            close(trace.outputs[name], raised / raised.sum(axis, keepdims=True), FLOAT32)
