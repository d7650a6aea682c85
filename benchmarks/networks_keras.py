"""The networks in Keras, channels last, with the weights that they have in PyTorch."""

from typing import Any

import keras
import numpy as np
from keras import layers
from networks import SIDE, Program, normal, program_of


@keras.saving.register_keras_serializable("benchmarks")
class Prefix(layers.Layer):
    """A token before the others."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.token = self.add_weight(shape=(1, 1, width), name="token")

    def call(self, x: Any) -> Any:
        ops = keras.ops
        shape = (ops.shape(x)[0], *self.token.shape[1:])
        return ops.concatenate([ops.broadcast_to(self.token, shape), x], 1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"width": self.token.shape[-1]}


@keras.saving.register_keras_serializable("benchmarks")
class Positions(layers.Layer):
    """What is added to the tokens of each position."""

    def __init__(self, count: int, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.table = self.add_weight(shape=(1, count, width), name="table")

    def call(self, x: Any) -> Any:
        return x + self.table

    def get_config(self) -> dict[str, Any]:
        _, count, width = self.table.shape
        return super().get_config() | {"count": count, "width": width}


@keras.saving.register_keras_serializable("benchmarks")
class Attention(layers.Layer):
    """Attention between tokens (N, T, 3 width) that already are queries, keys and values."""

    def __init__(self, width: int, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.heads = width, heads

    def call(self, x: Any) -> Any:
        ops, count = keras.ops, x.shape[1]
        x = ops.reshape(x, (-1, count, 3, self.heads, self.width // self.heads))
        q, k, v = (x[:, :, index] for index in range(3))
        return ops.reshape(ops.dot_product_attention(q, k, v), (-1, count, self.width))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"width": self.width, "heads": self.heads}


@keras.saving.register_keras_serializable("benchmarks")
def exact_gelu(x: Any) -> Any:
    return keras.ops.gelu(x, approximate=False)


class KerasOps:
    """A program in Keras; paddings are PyTorch's."""

    def _padded(self, x: Any, kernel: int, stride: int) -> tuple[Any, str]:
        if stride == 1:
            return x, "same"  # the same on both sides, as in PyTorch
        return layers.ZeroPadding2D(kernel // 2)(x) if kernel > 1 else x, "valid"

    def conv(
        self, x: Any, name: str, sizes: tuple[int, int], kernel: int = 1, *, stride: int = 1,
        groups: int = 1, bias: bool = True, pad: bool = True,
    ) -> Any:  # fmt: skip
        inputs, outputs = sizes
        x, padding = self._padded(x, kernel, stride) if pad else (x, "valid")
        settings: dict[str, Any] = {"padding": padding, "use_bias": bias, "name": name}
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = normal(name, shape, (2.0 / np.prod(shape[1:])) ** 0.5)
        layer: Any
        if groups == 1:
            layer = layers.Conv2D(outputs, kernel, stride, **settings)
            weight = weight.transpose(2, 3, 1, 0)
        else:
            layer = layers.DepthwiseConv2D(kernel, stride, **settings)
            weight = weight.transpose(2, 3, 0, 1)
        return _with(layer, x, [weight, normal(f"{name}_bias", (outputs,), 0.02)])

    def dense(self, x: Any, name: str, inputs: int, outputs: int) -> Any:
        weight = normal(name, (outputs, inputs), (1.0 / inputs) ** 0.5).T
        bias = normal(f"{name}_bias", (outputs,), 0.02)
        return _with(layers.Dense(outputs, name=name), x, [weight, bias])

    def norm(self, x: Any, name: str, channels: int) -> Any:
        statistics = [np.zeros(channels, np.float32), np.ones(channels, np.float32)]
        layer = layers.BatchNormalization(epsilon=1e-5, name=name)
        return _with(layer, x, [*_shift(name, channels), *statistics])

    def layer_norm(self, x: Any, name: str, channels: int) -> Any:
        layer = layers.LayerNormalization(epsilon=1e-6, name=name)
        return _with(layer, x, _shift(name, channels))

    def act(self, x: Any, name: str, kind: str) -> Any:
        if kind == "gelu":
            return layers.Activation(exact_gelu, name=name)(x)
        return layers.Activation(kind, name=name)(x)

    def maxpool(self, x: Any, name: str, kernel: int, stride: int) -> Any:
        # After a ReLU: a padding of zeros never wins over PyTorch's padding of -infinity.
        pad = (kernel - 1) // 2
        x = layers.ZeroPadding2D(pad)(x) if pad else x
        return layers.MaxPooling2D(kernel, stride, name=name)(x)

    def avgpool(self, x: Any, name: str, kernel: int) -> Any:
        return layers.AveragePooling2D(kernel, name=name)(x)

    def class_token(self, x: Any, name: str, width: int) -> Any:
        return _with(Prefix(width, name=name), x, [normal(name, (1, 1, width), 0.02)])

    def positions(self, x: Any, name: str, count: int, width: int) -> Any:
        table = normal(name, (1, count, width), 0.02)
        return _with(Positions(count, width, name=name), x, [table])

    def attention(self, x: Any, width: int, heads: int) -> Any:
        return Attention(width, heads)(x)

    def tokens(self, x: Any, width: int) -> Any:
        return layers.Reshape((-1, width))(x)

    def first(self, x: Any) -> Any:
        return x[:, 0]

    def mean(self, x: Any, keep: bool = False) -> Any:
        return layers.GlobalAveragePooling2D(keepdims=keep)(x)

    def flatten(self, x: Any) -> Any:
        return layers.Flatten()(layers.Permute((3, 1, 2))(x))

    def add(self, x: Any, y: Any) -> Any:
        return layers.Add()([x, y])

    def multiply(self, x: Any, y: Any) -> Any:
        return layers.Multiply()([x, y])

    def concat(self, x: Any, y: Any) -> Any:
        return layers.Concatenate()([x, y])


def _with(layer: Any, x: Any, arrays: list[np.ndarray]) -> Any:
    out = layer(x)
    layer.set_weights(arrays[: len(layer.weights)])
    return out


def _shift(name: str, channels: int) -> list[np.ndarray]:
    scale, bias = (normal(f"{name}_{part}", (channels,), 0.1) for part in ("scale", "bias"))
    return [1 + scale, bias]


def keras_program(program: Program, side: int = SIDE) -> Any:
    x = keras.Input((side, side, 3), name="image")
    return keras.Model(x, program(KerasOps(), x))


def keras_network(name: str) -> Any:
    return keras_program(program_of(name))
