"""Biases of Keras' layers: before an activation that is part of the layer, too."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

import gradcam_multi as gm

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    layers, drawn = keras.layers, {"bias_initializer": keras.initializers.RandomNormal(0, 0.5, 1)}
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv", **drawn)(image)
    x = layers.BatchNormalization(name="norm", scale=False)(x)
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise", **drawn)(x)
    x = layers.SeparableConv2D(5, 3, name="separable", **drawn)(x)
    x = layers.Conv2DTranspose(5, 2, strides=2, name="up", **drawn)(layers.ReLU()(x))
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    x = layers.Dense(7, activation="relu", name="dense", **drawn)(x)
    x = layers.Dense(4, activation="softmax", name="scores", **drawn)(x)
    built = keras.Model(image, x)
    norm = built.get_layer("norm")
    norm.set_weights([RNG.normal(size=6), RNG.normal(size=6), RNG.uniform(0.5, 2, 6)])
    return built


@pytest.fixture
def inputs():
    return np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)


def test_each_bias_and_where_it_is_added(model, inputs):
    biases = gm.Explainer(model).model.biases(inputs)
    norm = model.get_layer("norm")
    beta, mean, variance = map(np.asarray, norm.get_weights())
    expected = {
        name: model.get_layer(name).get_weights()[-1]
        for name in ("conv", "depthwise", "separable", "up", "dense", "scores")
    }
    expected["norm"] = beta - mean / np.sqrt(variance + norm.epsilon)
    assert set(biases) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(biases[name].values, values, rtol=1e-5, atol=1e-6)
    inside = {name for name, bias in biases.items() if bias.at}
    assert inside == {"conv", "depthwise", "dense", "scores"}
    assert not {biases[name].at for name in inside} & {layer.name for layer in gm.layers(model)}


def test_gradients_there_sum_to_those_of_the_weights(model, inputs):
    opened = gm.Explainer(model).model
    biases = opened.biases(inputs)
    names = [name for name in biases if name != "norm"]
    cotangent = np.eye(4, dtype=np.float32)[[1, 3]]
    with opened.trace(inputs, [biases[name].at or name for name in names]) as trace:
        gradients = trace.vjp({opened.outputs[0].name: cotangent})
    logits = keras.Model(model.input, model.get_layer("scores").input)
    last, weights = model.get_layer("scores"), [model.get_layer(name).bias for name in names]
    with tf.GradientTape() as tape:
        score = tf.reduce_sum((logits(inputs) @ last.kernel + last.bias) * cotangent)
    own = tape.gradient(score, [weight.value for weight in weights])
    for name, gradient, expected in zip(names, gradients, own, strict=True):
        found = gradient.sum((0, *range(2, gradient.ndim)))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * scale, err_msg=name)


def test_the_network_is_complete(model, inputs):
    found = gm.explain(model, inputs, [1, 3], method="fullgrad")
    assert found.status == ("ok", "ok")


def test_other_activations_are_refused(inputs):
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="gelu", bias_initializer="ones")(image)
    model = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(gm.UnsupportedError, match=r"fullgrad.* make up .*take another method"):
        gm.explain(model, inputs, 1, method="fullgrad")


def test_a_saved_model_is_refused_by_name(model, inputs, tmp_path):
    model.export(tmp_path / "saved", verbose=False)
    with pytest.raises(gm.UnsupportedError, match=r"biases were asked for.*'tensorflow'") as error:
        gm.explain(tmp_path / "saved", inputs, 1, method="fullgrad")
    assert "\n" not in str(error.value)
