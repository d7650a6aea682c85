"""Small Keras networks with the block structures people use; seeded random weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

Model = Any  # keras is untyped


def seeded(model: Model, seed: int = 0) -> Model:
    """Give a built model weights that depend on the seed alone; variances stay positive."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        shape = tuple(weight.shape)
        if weight.name in ("moving_variance", "gamma"):
            value = rng.uniform(0.8, 1.2, shape)
        elif len(shape) < 2:
            value = rng.normal(0, 0.1, shape)
        else:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        if "seed" not in weight.path:
            weight.assign(value.astype(np.float32))
    return model


def bottleneck(x: Any, width: int, outputs: int, name: str, stride: int = 1) -> Any:
    """ResNet's: 1x1, 3x3, 1x1, each normalised, then the residual and the last ReLU."""
    shortcut = x
    if stride != 1 or x.shape[-1] != outputs:
        shortcut = layers.Conv2D(outputs, 1, stride, use_bias=False, name=f"{name}_0_conv")(x)
        shortcut = layers.BatchNormalization(name=f"{name}_0_bn")(shortcut)
    for part, (size, kernel) in enumerate(((width, 1), (width, 3), (outputs, 1)), 1):
        step = stride if part == 2 else 1
        x = layers.Conv2D(
            size, kernel, step, padding="same", use_bias=False, name=f"{name}_{part}_conv"
        )(x)
        x = layers.BatchNormalization(name=f"{name}_{part}_bn")(x)
        if part < 3:
            x = layers.ReLU(name=f"{name}_{part}_relu")(x)
    x = layers.Add(name=f"{name}_add")([shortcut, x])
    return layers.ReLU(name=f"{name}_out")(x)


def small_resnet(classes: int = 10) -> Model:
    """Bottlenecks and a softmax: 32x32 in, a final grid of 4x4 at `block3_out`."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(8, 7, 2, padding="same", use_bias=False, name="conv1")(inputs)
    x = layers.BatchNormalization(name="bn1")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = bottleneck(x, 8, 32, "block1")
    x = bottleneck(x, 16, 64, "block2", stride=2)
    x = bottleneck(x, 16, 64, "block3")
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    outputs = layers.Dense(classes, activation="softmax", name="predictions")(x)
    return seeded(keras.Model(inputs, outputs, name="small_resnet"))


def small_vgg(classes: int = 10) -> Model:
    """A Sequential with fused ReLUs, pooling last and dropout: the final map is `conv4`."""
    widths = (8, "pool", 16, 16, "pool", 32, "pool")
    stack: list[Any] = [keras.Input((32, 32, 3), name="image")]
    convs = 0
    for place, width in enumerate(widths):
        if width == "pool":
            stack.append(layers.MaxPooling2D(2, name=f"pool{place}"))
        else:
            convs += 1
            stack.append(
                layers.Conv2D(width, 3, padding="same", activation="relu", name=f"conv{convs}")
            )
    stack += [
        layers.Flatten(name="flatten"),
        layers.Dense(24, activation="relu", name="fc1"),
        layers.Dropout(0.5, name="dropout"),
        layers.Dense(classes, name="logits"),
        layers.Softmax(name="softmax"),
    ]
    return seeded(keras.Sequential(stack, name="small_vgg"))


def small_mobilenet(classes: int = 10) -> Model:
    """MobileNet v2's: expand, depthwise, project, ReLU6; the final map is `out_relu`."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="Conv1")(inputs)
    x = layers.ReLU(6.0, name="Conv1_relu")(layers.BatchNormalization(name="Conv1_bn")(x))
    for block, (outputs, stride) in enumerate(((8, 1), (16, 2), (16, 1))):
        shortcut = x
        y = layers.Conv2D(32, 1, use_bias=False, name=f"block_{block}_expand")(x)
        y = layers.BatchNormalization(name=f"block_{block}_expand_bn")(y)
        y = layers.ReLU(6.0, name=f"block_{block}_expand_relu")(y)
        y = layers.DepthwiseConv2D(
            3, stride, padding="same", use_bias=False, name=f"block_{block}_depthwise"
        )(y)
        y = layers.BatchNormalization(name=f"block_{block}_depthwise_bn")(y)
        y = layers.ReLU(6.0, name=f"block_{block}_depthwise_relu")(y)
        y = layers.Conv2D(outputs, 1, use_bias=False, name=f"block_{block}_project")(y)
        x = layers.BatchNormalization(name=f"block_{block}_project_bn")(y)
        if stride == 1 and shortcut.shape[-1] == outputs:
            x = layers.Add(name=f"block_{block}_add")([shortcut, x])
    x = layers.Conv2D(64, 1, use_bias=False, name="Conv_last")(x)
    x = layers.ReLU(6.0, name="out_relu")(layers.BatchNormalization(name="Conv_last_bn")(x))
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    outputs = layers.Dense(classes, activation="softmax", name="predictions")(x)
    return seeded(keras.Model(inputs, outputs, name="small_mobilenet"))


def small_densenet(classes: int = 10) -> Model:
    """DenseNet's: concatenation, normalisation first; the final map is `relu`."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="conv0")(inputs)
    for block in range(2):
        for unit in range(2):
            name = f"block{block}_{unit}"
            y = layers.BatchNormalization(name=f"{name}_0_bn")(x)
            y = layers.Activation("relu", name=f"{name}_0_relu")(y)
            y = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"{name}_conv")(y)
            x = layers.Concatenate(name=f"{name}_concat")([x, y])
        if block == 0:
            x = layers.AveragePooling2D(2, name="transition_pool")(x)
    x = layers.Activation("relu", name="relu")(layers.BatchNormalization(name="bn")(x))
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return seeded(keras.Model(inputs, layers.Dense(classes, name="logits")(x)))


def small_squeezenet(classes: int = 10) -> Model:
    """SqueezeNet's: a convolution for a classifier; the final map is `fire2_concat`."""
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 3, 2, activation="relu", name="conv1")(inputs)
    for fire in (1, 2):
        s = layers.Conv2D(4, 1, activation="relu", name=f"fire{fire}_squeeze")(x)
        a = layers.Conv2D(8, 1, activation="relu", name=f"fire{fire}_expand1x1")(s)
        b = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"fire{fire}_expand3x3")(s)
        x = layers.Concatenate(name=f"fire{fire}_concat")([a, b])
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Conv2D(classes, 1, activation="relu", name="conv_classes")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return seeded(keras.Model(inputs, layers.Activation("softmax", name="softmax")(x)))


def transfer() -> Model:
    """Augmentation and rescaling before a frozen base inside a Sequential, two deep."""
    base = small_mobilenet()
    base = keras.Model(base.input, base.get_layer("out_relu").output, name="base")
    base.trainable = False
    inner = keras.Sequential([base, layers.GlobalAveragePooling2D(name="gap")], name="features")
    stack = [
        keras.Input((32, 32, 3), name="image"),
        layers.RandomFlip(name="flip"),
        layers.Rescaling(1 / 127.5, -1, name="rescale"),
        inner,
        layers.Dropout(0.2, name="drop"),
        layers.Dense(3, activation="softmax", name="head"),
    ]
    return keras.Sequential(stack, name="transfer")


def siamese() -> Model:
    """One backbone called twice, with two inputs, `left` and `right`."""
    x = keras.Input((16, 16, 3))
    y = layers.Conv2D(6, 3, activation="relu", name="conv")(x)
    backbone = keras.Model(x, y, name="backbone")
    left, right = keras.Input((16, 16, 3), name="left"), keras.Input((16, 16, 3), name="right")
    pooled = [layers.GlobalAveragePooling2D()(backbone(side)) for side in (left, right)]
    joined = layers.Concatenate(name="joined")(pooled)
    outputs = layers.Dense(4, name="logits")(joined)
    return seeded(keras.Model([left, right], outputs, name="siamese"))


class Block(keras.layers.Layer):
    """A user's residual block; its additions and ReLUs are raw TensorFlow."""

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(width, 3, padding="same", use_bias=False, name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, x: Any) -> Any:
        return tf.nn.relu(x + self.norm(self.conv(x)))


class Subclassed(keras.Model):
    """Unbuilt until called; blocks, a raw mean and a softmax by `tf.nn`."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__(name="subclassed")
        self.stem = layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")
        self.blocks = [Block(8, name=f"block{n}") for n in range(2)]
        self.head = layers.Dense(classes, name="head")
        self.unused = layers.Dense(2, name="unused")

    def call(self, x: Any) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return tf.nn.softmax(self.head(tf.reduce_mean(x, axis=[1, 2])))


def conv1d() -> Model:
    """A signal of 40 steps and 2 channels."""
    x = inputs = keras.Input((40, 2), name="signal")
    x = layers.Conv1D(6, 5, activation="relu", name="conv1")(x)
    x = layers.MaxPooling1D(2, name="pool")(x)
    x = layers.Conv1D(8, 3, activation="relu", name="conv2")(x)
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    return seeded(keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="p")(x)))


def conv3d() -> Model:
    """A volume of 6x10x8."""
    x = inputs = keras.Input((6, 10, 8, 1), name="volume")
    x = layers.Conv3D(4, 3, activation="relu", name="conv1")(x)
    x = layers.Conv3D(6, 3, padding="same", activation="relu", name="conv2")(x)
    x = layers.GlobalMaxPooling3D(name="gap")(x)
    return seeded(keras.Model(inputs, layers.Dense(3, name="logits")(x)))


def channels_first() -> Model:
    """The layout of other frameworks, stated by every layer."""
    first = {"data_format": "channels_first"}
    x = inputs = keras.Input((3, 18, 14), name="image")
    x = layers.Conv2D(6, 3, name="conv1", **first)(x)
    x = layers.BatchNormalization(axis=1, name="norm")(x)
    x = layers.ReLU(name="relu1")(x)
    x = layers.Conv2D(8, 3, 2, name="conv2", **first)(x)
    x = layers.ReLU(name="relu2")(x)
    x = layers.GlobalAveragePooling2D(name="gap", **first)(x)
    return seeded(keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x)))


def mixed_precision(dtype: str = "mixed_float16") -> Model:
    """Half precision inside, float32 weights, a float32 softmax."""
    half: dict[str, Any] = {"dtype": keras.dtype_policies.get(dtype)}
    x = inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu", name="conv1", **half)(x)
    x = layers.Conv2D(8, 3, activation="relu", name="conv2", **half)(x)
    x = layers.GlobalAveragePooling2D(name="gap", **half)(x)
    x = layers.Dense(4, name="logits", **half)(x)
    return seeded(keras.Model(inputs, layers.Activation("softmax", dtype="float32", name="p")(x)))


def raw_operations() -> Model:
    """A functional model whose last map is made by `keras.ops`, not by a layer."""
    x = inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, name="conv1")(x)
    x = keras.ops.relu(x)
    x = keras.ops.relu(layers.Conv2D(8, 3, padding="same", name="conv2")(x) + x)
    x = keras.ops.mean(x, axis=(1, 2))
    return seeded(keras.Model(inputs, layers.Dense(4, name="logits")(x)))


def two_outputs() -> Model:
    """A dict of outputs; the map `side_conv` serves only `side`."""
    x = inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(6, 3, activation="relu", name="trunk")(x)
    side = layers.Conv2D(4, 3, activation="relu", name="side_conv")(x)
    outputs = {
        "main": layers.Dense(3, activation="softmax", name="a")(
            layers.GlobalAveragePooling2D(name="gap_a")(x)
        ),
        "side": layers.Dense(2, name="b")(layers.GlobalAveragePooling2D(name="gap_b")(side)),
    }
    return seeded(keras.Model(inputs, outputs, name="two_outputs"))


def vision_transformer() -> Model:
    """Patches, two attention blocks, an average over tokens: 16 tokens of 4x4."""
    x = inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(16, 8, 8, name="patches")(x)
    x = layers.Reshape((16, 16), name="tokens")(x)
    for block in range(2):
        y = layers.LayerNormalization(name=f"norm{block}a")(x)
        y = layers.MultiHeadAttention(2, 8, name=f"attention{block}")(y, y)
        x = layers.Add(name=f"add{block}a")([x, y])
        y = layers.LayerNormalization(name=f"norm{block}b")(x)
        y = layers.Dense(16, name=f"mlp{block}b")(
            layers.Dense(32, activation="gelu", name=f"mlp{block}a")(y)
        )
        x = layers.Add(name=f"add{block}b")([x, y])
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GlobalAveragePooling1D(name="gap")(x)
    return seeded(keras.Model(inputs, layers.Dense(5, name="head")(x)))


def recurrent() -> Model:
    """Convolutions, then an LSTM over columns: its loop is a graph of its own."""
    x = inputs = keras.Input((16, 12, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv1")(x)
    x = layers.Reshape((16, 12 * 6), name="rows")(x)
    x = layers.LSTM(5, name="lstm")(x)
    return seeded(keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x)))


IMAGE_NETWORKS: dict[str, tuple[Callable[[], Model], str]] = {
    "resnet": (small_resnet, "block3_out"),
    "vgg": (small_vgg, "conv4"),
    "mobilenet": (small_mobilenet, "out_relu"),
    "densenet": (small_densenet, "relu"),
    "squeezenet": (small_squeezenet, "fire2_concat"),
}
"""Networks of (N, 32, 32, 3) by family, and the layer that makes their final feature map."""
