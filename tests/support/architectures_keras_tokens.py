"""Token models in Keras, small: a class token, windows on NHWC blocks, patches without a
convolution, attention written out."""

from typing import Any

import keras
from architectures_keras import seeded
from keras import layers, ops

WIDTH = 16


class Prefix(layers.Layer):
    """A learned token in front, and learned positions."""

    def build(self, shape: Any) -> None:
        self.token = self.add_weight(shape=(1, 1, WIDTH), initializer="normal")
        self.positions = self.add_weight(shape=(1, shape[1] + 1, WIDTH), initializer="normal")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(self.token, (ops.shape(x)[0], 1, WIDTH))
        return ops.concatenate([token, x], 1) + self.positions


class Attention(layers.Layer):
    """Two heads, the products written out in operations."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.qkv, self.proj = layers.Dense(3 * WIDTH), layers.Dense(WIDTH)

    def call(self, x: Any) -> Any:
        count = x.shape[1]
        parts = ops.reshape(self.qkv(x), (-1, count, 3, 2, WIDTH // 2))
        q, k, v = ops.unstack(ops.transpose(parts, (2, 0, 3, 1, 4)), axis=0)
        weights = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) / WIDTH**0.5)
        x = ops.transpose(ops.matmul(weights, v), (0, 2, 1, 3))
        return self.proj(ops.reshape(x, (-1, count, WIDTH)))


def block(x: Any, name: str, attention: Any) -> Any:
    """Normalise, attend, add; normalise, two dense layers, add."""
    y = layers.LayerNormalization(name=f"{name}_norm1")(x)
    x = layers.Add(name=f"{name}_add1")([x, attention(y)])
    y = layers.LayerNormalization(name=f"{name}_norm2")(x)
    y = layers.Dense(2 * WIDTH, activation="gelu", name=f"{name}_mlp1")(y)
    y = layers.Dense(WIDTH, name=f"{name}_mlp2")(y)
    return layers.Add(name=f"{name}_out")([x, y])


def fused(y: Any) -> Any:
    """Keras' own layer, asked with its own input."""
    return layers.MultiHeadAttention(2, 8)(y, y)


def class_token(attention: str = "fused") -> Any:
    """Patches of a 24x48 picture, a class token, three blocks; the class token is read."""
    x = inputs = keras.Input((24, 48, 3), name="image")
    x = layers.Conv2D(WIDTH, 8, 8, name="patches")(x)
    x = Prefix(name="prefix")(layers.Reshape((-1, WIDTH), name="tokens")(x))
    for index in range(3):
        x = block(x, f"block{index}", fused if attention == "fused" else Attention())
    x = layers.LayerNormalization(name="norm")(x)[:, 0]
    return seeded(keras.Model(inputs, layers.Dense(5, name="head")(x)))


class Windows(layers.Layer):
    """Attention in windows of 4x4 of (N, H, W, C), rolled by two."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.attention = Attention()

    def call(self, x: Any) -> Any:
        h, w = x.shape[1:3]
        y = ops.reshape(ops.roll(x, (-2, -2), (1, 2)), (-1, h // 4, 4, w // 4, 4, WIDTH))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, 16, WIDTH))
        y = ops.reshape(self.attention(y), (-1, h // 4, w // 4, 4, 4, WIDTH))
        y = ops.reshape(ops.transpose(y, (0, 1, 3, 2, 4, 5)), (-1, h, w, WIDTH))
        return ops.roll(y, (2, 2), (1, 2))


def windows() -> Any:
    """Blocks on (N, H, W, C), attending in windows; the mean of all cells."""
    x = inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(WIDTH, 4, 4, name="patches")(x)
    for index in range(3):
        x = block(x, f"block{index}", Windows(name=f"windows{index}"))
    x = layers.GlobalAveragePooling2D(name="gap")(layers.LayerNormalization(name="norm")(x))
    return seeded(keras.Model(inputs, layers.Dense(5, name="head")(x)))


def unconvolved() -> Any:
    """Patches cut by reshaping, then a dense layer; the mean of all tokens."""
    x = inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Reshape((4, 8, 4, 8, 3))(x)
    x = layers.Reshape((16, 192), name="patches")(ops.transpose(x, (0, 1, 3, 2, 4, 5)))
    x = layers.Dense(WIDTH, name="tokens")(x)
    for index in range(2):
        x = block(x, f"block{index}", fused)
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    return seeded(keras.Model(inputs, layers.Dense(5, name="head")(x)))


TOKENS = {
    "class_token": (class_token, "block1_out", (3, 6), 1),
    "class_token_written_out": (lambda: class_token("written out"), "block1_out", (3, 6), 1),
    "windows": (windows, "block1_out", (8, 8), 0),
    "unconvolved": (unconvolved, "block0_out", (4, 4), 0),
}
"""Builders by name, with the layer that enters the last block, its grid and what is before it."""
