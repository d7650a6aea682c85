"""Token models in Keras: the layer, the grid and the map, against a gradient tape by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from architectures_keras import vision_transformer
from architectures_keras_tokens import TOKENS

import gradcam_multi as gm


def by_hand(model, layer, x, target, grid):
    """Grad-CAM (N, *grid) of a layer's result, its last cells being the grid's."""
    parts = keras.Model(model.inputs, [model.get_layer(layer).output, *model.outputs])
    with tf.GradientTape() as tape:
        a, scores = parts(x, training=False)
        score = tf.reduce_sum(scores[:, target])
    g = tape.gradient(score, a).numpy()
    cells = grid[0] * grid[1]
    a = a.numpy().reshape(len(x), -1, a.shape[-1])[:, -cells:]
    g = g.reshape(len(x), -1, g.shape[-1])[:, -cells:]
    return np.maximum((a * g.mean(1, keepdims=True)).sum(-1), 0).reshape(-1, *grid)


@pytest.mark.parametrize("name", TOKENS)
def test_default_layer_and_map(name):
    build, layer, grid, prefix = TOKENS[name]
    model = build()
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    explainer = gm.Explainer(model)
    default = explainer.layers(x).default
    assert default.name == layer
    if len(default.shape) == 3:
        assert (default.folding.grid, default.folding.prefix) == (grid, prefix)
    maps = []
    for target in range(5):
        with np.testing.suppress_warnings() as quiet:
            quiet.filter(gm.CamWarning)  # a class may have evidence against it only
            explanation = explainer(x, target)
        expected = by_hand(model, layer, x, target, grid)
        assert explanation.cam.shape == expected.shape
        # float32 through the same operations, whose sums run in another order.
        np.testing.assert_allclose(explanation.cam, expected, atol=1e-5)
        maps.append(expected)
    assert max(cam.max() for cam in maps) > 1e-2


def test_the_last_blocks_result_is_dead():
    model = TOKENS["class_token"][0]()
    x = np.random.default_rng(0).normal(size=(2, 24, 48, 3)).astype(np.float32)
    with pytest.warns(gm.CamWarning, match="zero_gradient.*default layer is 'block1_out'"):
        assert gm.explain(model, x, 1, layer="block2_out").status == ("zero_gradient",) * 2


def test_roles_tell_products_from_weights():
    model = TOKENS["class_token_written_out"][0]()
    roles = [layer.role for layer in gm.layers(model)]
    assert roles.count("attention") == 2 * 3
    assert roles.count("linear") == 4 * 3 + 1
    pooled = gm.layers(vision_transformer()).default
    assert pooled.name == "add0b"
