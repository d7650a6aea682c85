"""Gradients of inputs, and the guided rule, in the ways that Keras models have them.

Runs on any of Keras' backends: `test_backends` has it run on torch and JAX.
"""

import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")

import numpy as np
from guided_keras import COTANGENT, FLOAT32, RNG, X, by_hand, gradient, net
from keras import layers, ops

from gradcam_multi.errors import InputError, UnsupportedError
from gradcam_multi.plugins import installed
from gradcam_multi.spec import InputName


@keras.saving.register_keras_serializable(package="gradcam_multi_kit")
class Raw(layers.Layer):
    """ReLU called in a layer of the user's own."""

    def call(self, x):
        return ops.relu(x)


SPELLINGS = {
    "layer": lambda x: layers.ReLU()(x),
    "activation": lambda x: layers.Activation("relu")(x),
    "operation": ops.relu,
    "own layer": lambda x: Raw()(x),
}
OTHERS = {
    "leaky": lambda x: layers.LeakyReLU(negative_slope=0.2)(x),
    "leaky relu": lambda x: layers.ReLU(negative_slope=0.2, max_value=50)(x),
    "prelu": lambda x: layers.PReLU(alpha_initializer=keras.initializers.Constant(0.3))(x),
    "silu": lambda x: layers.Activation("silu")(x),
    "hard sigmoid": lambda x: layers.Activation("hard_sigmoid")(x),
    "hard silu": lambda x: layers.Activation("hard_silu")(x),
    "gelu": lambda x: layers.Activation("gelu")(x),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_is_guided(spelling):
    model = net(SPELLINGS[spelling])
    (found,) = gradient(model, relu="guided")
    np.testing.assert_allclose(found, by_hand(model), **FLOAT32)
    (plain,) = gradient(model)
    assert np.abs(found - plain).max() > 0.1


def test_relu_as_a_dense_layers_own():
    model = net(lambda x: layers.Dense(6, activation="relu", name=None, trainable=False)(x))
    first, second = (layer for layer in model.layers if getattr(layer, "activation", None) is (
        keras.activations.relu
    ))  # fmt: skip
    for layer in (first, second):
        layer.set_weights([np.eye(6, dtype=np.float32), np.zeros(6, np.float32)])
    (found,) = gradient(model, relu="guided")
    np.testing.assert_allclose(found, by_hand(model), **FLOAT32)


@pytest.mark.parametrize("cap", [6.0, 3.0])
def test_a_capped_relu_is_guided(cap):
    model = net(lambda x: layers.ReLU(max_value=cap)(x))
    (found,) = gradient(model, relu="guided")
    np.testing.assert_allclose(found, by_hand(model, cap), **FLOAT32)
    assert np.abs(found - by_hand(model)).max() > 0.1  # some values there are above


@pytest.mark.parametrize("other", OTHERS)
def test_other_activations_keep_their_rule(other):
    model = net(OTHERS[other])
    with pytest.raises(UnsupportedError, match="runs no ReLU") as refused:
        gradient(model, relu="guided")
    assert "\n" not in str(refused.value)
    # Behind a ReLU that everything passes, and whose gradients are all positive: nothing changes.
    end = layers.Dense(3, kernel_initializer="ones")(ops.relu(ops.abs(model.output) + 1))
    whole = keras.Model(model.input, end)
    positive = np.abs(COTANGENT)
    with installed().open(whole).trace(X, ["x"]) as trace:
        (plain,) = trace.vjp({next(iter(trace.logits)): positive})
    with installed().open(whole).trace(X, ["x"], relu="guided") as trace:
        (guided,) = trace.vjp({next(iter(trace.logits)): positive})
    np.testing.assert_allclose(guided, plain, rtol=1e-5, atol=1e-5)
    assert (plain < 0).any()


def test_inputs_by_name_beside_integers():
    words = keras.Input((2,), name="words", dtype="int32")
    image = keras.Input((4,), name="image")
    table = layers.Embedding(7, 3, name="table")
    end = layers.Dense(3, name="dense")(image) * ops.mean(table(words), axis=1)
    model = keras.Model({"image": image, "words": words}, end)
    inputs = {"image": X, "words": RNG.integers(0, 7, (5, 2))}
    (found,) = gradient(model, ["image"], inputs)
    rows = np.asarray(table.get_weights()[0])[inputs["words"]].mean(1)
    kernel = np.asarray(model.get_layer("dense").get_weights()[0])
    np.testing.assert_allclose(found, (COTANGENT * rows) @ kernel.T, **FLOAT32)
    with pytest.raises(InputError, match="input 'words' was asked for, but it holds int32") as no:
        gradient(model, ["words"], inputs)
    assert "\n" not in str(no.value)


def test_an_input_can_be_replayed():
    model = net(ops.relu)
    with installed().open(model).trace(X, [InputName("x")]) as trace:
        moved = trace.replay(InputName("x"), X[::-1])
        for name, own in trace.logits.items():
            np.testing.assert_allclose(moved[name], own[::-1], rtol=1e-5, atol=1e-5)


def test_a_subclassed_model_names_its_inputs_once_it_has_run():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, left, right):
            return self.dense(left * right)

    model = Own()
    opened = installed().open(model)
    inputs = {"left": X, "right": X + 1}
    with opened.trace(inputs, ["right"]) as trace:
        (found,) = trace.vjp({next(iter(trace.logits)): COTANGENT})
    kernel = np.asarray(model.dense.get_weights()[0])
    np.testing.assert_allclose(found, COTANGENT @ kernel.T * X, **FLOAT32)
