"""Described networks as Keras models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradcam_multi_tensorflow.files import require_keras

if TYPE_CHECKING:
    from gradcam_multi.demo.networks import DemoLayer, DemoNetwork


def build(network: DemoNetwork) -> Any:
    """Build a described network as a `keras.Sequential`, its layers under their own names.

    It takes `(N, H, W, 3)`, channels last, and returns `(N, classes)`.
    """
    keras = require_keras()
    layers = [_layer(keras, network, layer) for layer in network.layers]
    inputs = keras.Input((*network.input_size, 3), name="image")
    model = keras.Sequential([inputs, *layers], name=network.name)
    for layer, built in zip(network.layers, layers, strict=True):
        if layer.kind in ("conv", "dense"):
            weight = network.weights[f"{layer.name}.weight"]
            # Keras keeps (height, width, in, out) and (in, out); the description (out, in, ...).
            kernel = weight.transpose(2, 3, 1, 0) if layer.kind == "conv" else weight.T
            built.set_weights([kernel, network.weights[f"{layer.name}.bias"]])
    return model


def _layer(keras: Any, network: DemoNetwork, layer: DemoLayer) -> Any:
    name, layers = layer.name, keras.layers
    last = {"data_format": "channels_last"}  # whatever the user's Keras has for a default
    if layer.kind in ("conv", "dense"):
        size = len(network.weights[f"{name}.bias"])
        if layer.kind == "conv":
            return layers.Conv2D(size, 3, padding="same", name=name, **last)
        return layers.Dense(size, name=name)
    return {
        "relu": lambda: layers.ReLU(name=name),
        "maxpool": lambda: layers.MaxPooling2D(2, name=name, **last),
        "gap": lambda: layers.GlobalAveragePooling2D(name=name, **last),
        "softmax": lambda: layers.Softmax(name=name),
    }[layer.kind]()
