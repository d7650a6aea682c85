"""Keras networks, their exports by tf2onnx, and TensorFlow's word on gradients."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import architectures_keras as small
import keras
import numpy as np
import tensorflow as tf
from gradient_referee import Floats, Reference


@dataclass(frozen=True)
class Network:
    """How to build a network, and the layers that make its feature maps."""

    build: Callable[[], Any]
    early: str
    last: str


def application(name: str, side: int = 64, **options: Any) -> Callable[[], Any]:
    """Return a builder of one of Keras' own networks, with random weights."""

    def build() -> Any:
        shape = (side, side, 3)
        return getattr(keras.applications, name)(
            weights=None, input_shape=shape, classes=10, **options
        )

    return build


NETWORKS: dict[str, Network] = {
    "keras_resnet": Network(small.small_resnet, "pool1", "block3_out"),
    "keras_vgg": Network(small.small_vgg, "conv1", "conv4"),
    "keras_mobilenet": Network(small.small_mobilenet, "Conv1_relu", "out_relu"),
    "keras_densenet": Network(small.small_densenet, "block0_1_concat", "relu"),
    "keras_squeezenet": Network(small.small_squeezenet, "conv1", "fire2_concat"),
    "keras_channels_first": Network(small.channels_first, "relu1", "relu2"),
    "keras_vit": Network(small.vision_transformer, "add0b", "add1a"),
    "keras_conv1d": Network(small.conv1d, "conv1", "conv2"),
    "keras_conv3d": Network(small.conv3d, "conv1", "conv2"),
    "MobileNet": Network(application("MobileNet", alpha=0.25), "conv_pw_1_relu", "conv_pw_13_relu"),
    "MobileNetV2": Network(
        application("MobileNetV2", alpha=0.35), "block_1_project_BN", "out_relu"
    ),
    "MobileNetV3Small": Network(
        application("MobileNetV3Small", alpha=0.75), "expanded_conv_project_bn", "activation_17"
    ),
    "EfficientNetB0": Network(
        application("EfficientNetB0"), "block1a_project_bn", "top_activation"
    ),
    "DenseNet121": Network(application("DenseNet121"), "pool1", "relu"),
}
"""All networks written in Keras, by name."""


def built(network: Network, seed: int = 0) -> Any:
    """Return a network with random weights and statistics."""
    keras.backend.clear_session()  # names count up from one again
    model = small.seeded(network.build(), seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            for weight in layer.weights:  # pixels' statistics, which are no weights
                if "count" not in weight.name:
                    weight.assign(100 + 20 * abs(weight.numpy()))
            layer.finalize_state()
    return model


def drawn(model: Any, count: int, seed: int = 0) -> Floats:
    """Return random inputs; pixels where the network scales them itself."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, *model.input_shape[1:]))
    rescales = any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers)
    return (128 + 60 * x if rescales else x).astype(np.float32)


def exported(model: Any) -> bytes:
    """Return a model as ONNX, by tf2onnx; the batch is free."""
    import tf2onnx

    signature = [tf.TensorSpec(model.input_shape, tf.float32, "x")]
    function = tf.function(lambda x: model(x, training=False), input_signature=signature)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proto, _ = tf2onnx.convert.from_function(function, signature, opset=17)
    return proto.SerializeToString()


class Tape:
    """The referee: gradients of a model's logits at two of its layers and at the input."""

    def __init__(self, network: Network, model: Any) -> None:
        kept = [model.get_layer(name).output for name in (network.early, network.last)]
        self.parts = keras.Model(model.inputs, [*kept, *model.outputs])

    def __call__(
        self, inputs: Floats, cotangent: Callable[[int, Floats], Floats],
        activations: Sequence[str | None],
    ) -> Reference:  # fmt: skip
        x = tf.convert_to_tensor(inputs)
        with tf.GradientTape() as tape:
            tape.watch(x)
            early, last, *outputs = self.parts(x, training=False)
            score = tf.zeros(())
            for index, output in enumerate(outputs):
                made = cotangent(index, output.numpy()).astype(np.float32)
                logits = _logits(output, activations[index])
                score += tf.reduce_sum(logits * made)
        places = {"early": early, "last": last, "input": x}
        gradients = tape.gradient(score, list(places.values()))
        return Reference(
            [output.numpy() for output in outputs],
            {
                place: (value.numpy(), gradient.numpy())
                for (place, value), gradient in zip(places.items(), gradients, strict=True)
            },
        )


def _logits(output: Any, activation: str | None) -> Any:
    if activation == "softmax":
        return tf.math.log(output)
    if activation == "sigmoid":
        return tf.math.log(output) - tf.math.log1p(-output)
    return output
