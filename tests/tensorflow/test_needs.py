"""What users of Keras ran into elsewhere, by the numbers of the list of needs."""

from typing import Any

import architectures_keras as zoo
import keras
import numpy as np
import pytest

import gradcam_multi as gm

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 32, 32, 3)).astype(np.float32)
FLOAT32 = 2e-5  # the same kernels, fused otherwise


def close(actual: Any, expected: Any, tolerance: float = FLOAT32) -> None:
    scale = float(np.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def test_need_03_nested_models_and_paths_with_dots() -> None:
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="Conv_1")(inputs)
    base = keras.Model(inputs, x, name="mobilenetv2_1.00_224")
    stack = [
        keras.Input((32, 32, 3)),
        keras.layers.RandomFlip(),
        keras.layers.Rescaling(1 / 2),
        keras.Sequential([base, keras.layers.GlobalAveragePooling2D()], name="inner"),
        keras.layers.Dense(3, activation="softmax", name="head"),
    ]
    model = keras.Sequential(stack, name="outer")
    maps = np.moveaxis(np.asarray(base(X / 2)), -1, 1)
    explanation = gm.explain(model, X)
    weights = np.asarray(model.get_layer("head").kernel)[:, np.argmax(explanation.logits, 1)]
    expected = np.einsum("nchw,cn->nhw", maps, weights) / 30**2  # an average over 30x30 cells
    close(explanation.cam, np.maximum(expected, 0))
    assert explanation.layer == "inner/mobilenetv2_1.00_224/Conv_1"
    whole = ["inner", "mobilenetv2_1.00_224", "Conv_1"]
    for layer in (
        whole,
        whole[1:],
        "Conv_1",
        "mobilenetv2_1.00_224",
        "inner/" + "/".join(whole[1:]),
    ):
        np.testing.assert_array_equal(gm.explain(model, X, layer=layer).cam, explanation.cam)


@pytest.mark.parametrize(("build", "shape"), [(zoo.conv1d, (16,)), (zoo.conv3d, (4, 8, 6))])
def test_need_05_signals_and_volumes(build: Any, shape: tuple[int, ...]) -> None:
    model = build()
    extents = tuple(model.input.shape[1:])
    x = RNG.normal(size=(3, *extents)).astype(np.float32)
    whole = gm.explain(model, x)
    assert whole.cam.shape == (3, *shape)
    assert whole.heatmap.shape == (3, *extents[:-1])
    close(gm.explain(model, x[1:2]).cam[0], whole.cam[1])


def test_need_07_models_that_keras_knows_no_symbols_of() -> None:
    keras.utils.set_random_seed(3)
    model = zoo.Subclassed()
    assert not model.built
    explanation = gm.explain(model, X, layer="block0")
    assert explanation.cam.shape == (2, 15, 15)
    np.testing.assert_allclose(explanation.outputs, model(X), rtol=1e-5, atol=1e-6)


def test_need_09_the_score_before_a_fused_softmax_and_the_model_unedited() -> None:
    model = zoo.small_resnet()
    head = model.get_layer("predictions")
    before = head.activation
    explanation = gm.explain(model, X, 3)
    assert head.activation is before is keras.activations.softmax
    features = keras.Model(model.input, model.get_layer("gap").output)(X)
    logits = np.asarray(features) @ np.asarray(head.kernel) + np.asarray(head.bias)
    close(explanation.logits, logits)
    np.testing.assert_allclose(explanation.scores, logits[:, 3], rtol=1e-4, atol=1e-5)
    assert explanation.activation == "softmax"
    signal = RNG.normal(size=(1, 40, 2)).astype(np.float32)
    assert gm.explain(zoo.conv1d(), signal).activation == "sigmoid"


def test_need_20_two_inputs_and_a_backbone_called_twice() -> None:
    model = zoo.siamese()
    left, right = (RNG.normal(size=(2, 16, 16, 3)).astype(np.float32) for _ in range(2))
    backbone, kernel = model.get_layer("backbone"), np.asarray(model.get_layer("logits").kernel)
    for place, (layer, side) in enumerate((("backbone", left), ("backbone#2", right))):
        explanation = gm.explain(model, (left, right), 1, layer=layer)
        share = kernel[6 * place : 6 * place + 6, 1] / 14**2
        close(explanation.cam, np.maximum(np.asarray(backbone(side)) @ share, 0))


def test_need_22_the_model_is_left_as_found_and_the_map_is_the_same_each_time() -> None:
    model = zoo.seeded(zoo.transfer())  # with a random flip and a dropout
    before = [weight.numpy().tobytes() for weight in model.weights]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    explainer = gm.Explainer(model)
    first = explainer(X)
    with pytest.raises(gm.GradcamError):
        explainer(X, 99)
    np.testing.assert_array_equal(explainer(X).cam, first.cam)
    assert [weight.numpy().tobytes() for weight in model.weights] == before
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


@pytest.mark.parametrize(
    ("policy", "tolerance"), [("mixed_float16", 1e-2), ("mixed_bfloat16", 8e-2)]
)
def test_need_25_mixed_precision(policy: str, tolerance: float) -> None:
    """11 and 8 bits of precision, some ten roundings on the way."""
    half, full = zoo.mixed_precision(policy), zoo.mixed_precision("float32")
    full.set_weights(half.get_weights())
    x = RNG.normal(size=(2, 16, 16, 3)).astype(np.float32)
    explanation = gm.explain(half, x, 1)
    assert explanation.cam.dtype == np.float32
    close(explanation.cam, gm.explain(full, x, 1).cam, tolerance)
