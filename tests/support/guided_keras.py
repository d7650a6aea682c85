"""A small Keras network with any activation, and its guided gradient chained by hand."""

import keras
import numpy as np
from keras import layers

from gradcam_multi.plugins import installed

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 4)).astype(np.float32)
COTANGENT = RNG.normal(size=(5, 3)).astype(np.float32)
FLOAT32 = {"rtol": 1e-5, "atol": 1e-4}  # three small products; gradients are of order 100


def net(activation):
    """Dense, activation, dense, activation, dense: (N, 4) to (N, 3)."""
    keras.utils.set_random_seed(0)
    start = keras.Input((4,), name="x")
    wide = keras.initializers.RandomNormal(stddev=2.0)
    h = activation(layers.Dense(6, name="first", kernel_initializer=wide)(start))
    h = activation(layers.Dense(6, name="second", kernel_initializer=wide)(h))
    return keras.Model(start, layers.Dense(3, name="third")(h))


def by_hand(model, cap=np.inf):
    """The guided gradient of a `net`, chained in float64."""
    found = (model.get_layer(name).get_weights() for name in ("first", "second", "third"))
    weights = [[np.asarray(a, np.float64) for a in pair] for pair in found]
    h, masks = X.astype(np.float64), []
    for w, b in weights[:2]:
        z = h @ w + b
        masks.append((z > 0) & (z < cap))
        h = np.clip(z, 0, cap)
    g = COTANGENT @ weights[2][0].T
    for (w, _), mask in zip(weights[1::-1], masks[::-1], strict=True):
        g = np.where(mask & (g > 0), g, 0) @ w.T
    assert not all(mask.all() for mask in masks)
    return g


def gradient(model, names=("x",), inputs=X, **options):
    with installed().open(model).trace(inputs, list(names), **options) as trace:
        return trace.vjp({next(iter(trace.logits)): COTANGENT})
