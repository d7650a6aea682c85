"""LeGrad in Keras on TensorFlow: fused against written out."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from architectures_keras_tokens import TOKENS
from closeness import assert_close
from legrad_references import slow_map

import gradcam_multi as gm


def drawn(model, count=2):
    return np.random.default_rng(0).normal(size=(count, *model.input_shape[1:])).astype(np.float32)


def by_tape(model, x, target):
    """dS/dA of each block, (N, heads, T, T), of the class-token model with fused attention."""
    attention = [each for each in model.layers if isinstance(each, keras.layers.MultiHeadAttention)]
    layer, found = model.get_layer, []
    with tf.GradientTape(persistent=True) as tape:
        z = layer("prefix")(layer("tokens")(layer("patches")(x)))
        for place, own in enumerate(attention):
            wq, bq, wk, bk, wv, bv, wo, bo = own.get_weights()
            y = layer(f"block{place}_norm1")(z)
            q, k, v = (
                tf.einsum("ntc,chd->nthd", y, w) + b for w, b in ((wq, bq), (wk, bk), (wv, bv))
            )
            a = tf.nn.softmax(tf.einsum("nqhd,nkhd->nhqk", q, k) / wq.shape[-1] ** 0.5)
            z = z + tf.einsum("nhqk,nkhd,hdc->nqc", a, v, wo) + bo
            y = layer(f"block{place}_mlp1")(layer(f"block{place}_norm2")(z))
            z = z + layer(f"block{place}_mlp2")(y)
            score = tf.reduce_sum(layer("head")(layer("norm")(z)[:, 0])[:, target])
            found.append((score, a))
    return [tape.gradient(score, a).numpy() for score, a in found]


def test_maps_are_those_of_the_tape():
    build, _, grid, prefix = TOKENS["class_token"]
    model = build()
    x = drawn(model)
    gradients = by_tape(model, x, 3)
    found = gm.explain(model, x, 3, method="legrad")
    assert (found.status, found.cost) == (("ok", "ok"), 2 + len(gradients))
    for i in range(2):
        expected = slow_map([g[i] for g in gradients], prefix, grid)
        np.testing.assert_allclose(found.cam[i], expected, rtol=0, atol=1e-5 * expected.max())


def test_an_attention_that_is_written_out():
    build, _, grid, _ = TOKENS["class_token_written_out"]
    model = build()
    found = gm.explain(model, drawn(model), 3, method="legrad")
    assert (found.cam.shape, found.status) == ((2, *grid), ("ok", "ok"))


def test_a_batch_is_its_items_and_the_weights_stay():
    model = TOKENS["class_token"][0]()
    x = drawn(model, 3)
    before = [w.numpy() for w in model.weights]
    explainer = gm.Explainer(model, method="legrad")
    whole = explainer(x, [0, 1, 2])
    for i in range(3):
        assert_close(explainer(x[i : i + 1], i).cam, whole.cam[i : i + 1], 1e-5, i)
    assert all(np.array_equal(w.numpy(), old) for w, old in zip(model.weights, before, strict=True))


def test_windows_are_refused():
    model = TOKENS["windows"][0]()
    with pytest.raises(
        gm.UnsupportedError,
        match=r"for 2 items it works on \(8, 2, 16, 8\), as in windows",
    ) as error:
        gm.explain(model, drawn(model), 3, method="legrad")
    assert "\n" not in str(error.value)
