"""Keras' own networks at full width with random weights, stored as files for every backend.

Run as a program it writes NAME.keras and NAME.npz (inputs) into a folder: `applications.py FOLDER
NAME...`. Keras chooses its backend once for a process, so each backend reads them in its own.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

SIDES = {
    "ResNet50": 128,
    "VGG16": 128,
    "MobileNetV2": 128,
    "DenseNet121": 128,
    "EfficientNetB0": 128,
    "InceptionV3": 160,
    "Xception": 160,
    "ConvNeXtTiny": 128,
}
"""The networks, and sides of their inputs that leave a final grid of 3x3 or more."""

INNER = {
    "ResNet50": "conv4_block6_out",
    "VGG16": "block4_conv3",
    "MobileNetV2": "block_13_expand_relu",
    "DenseNet121": "pool4_relu",
    "EfficientNetB0": "block5c_add",
    "InceptionV3": "mixed7",
    "Xception": "block13_sepconv2_act",
    "ConvNeXtTiny": "add_14",
}
"""A layer before the last reduction of the grid: its gradient comes through a stage of layers."""

CLASSES = 10
ITEMS = 3


def built(name: str, side: int) -> Any:
    """Return a network with random weights and the statistics that they have on random inputs."""
    import keras

    keras.backend.clear_session()  # names count up from one again
    shape = (side, side, 3)
    model = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=CLASSES)
    random = np.random.default_rng(0)
    for weight in model.weights:
        kind = "scale" if "layer_scale" in weight.path else weight.name
        draw = _drawn(kind, tuple(weight.shape), random)
        if draw is not None:
            weight.assign(draw.astype(np.float32))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    calibrate(model, inputs_for(model, 8, seed=1))
    return model


def _drawn(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Any:
    # No zero or near-zero initial value is kept: a residual branch or a head of zeros, and layer
    # scales of 1e-6, would hide whatever is wrong behind them.
    if name in ("gamma", "scale"):
        return random.uniform(0.8, 1.2, shape)
    if name in ("beta", "bias"):
        return random.normal(0, 0.1, shape)
    if name.endswith("kernel"):
        inputs = np.prod(shape[:2]) if name.startswith("depthwise") else np.prod(shape[:-1])
        return random.normal(0, np.sqrt(2 / inputs), shape)
    if name == "mean":  # of pixels: a layer at the input, and not a weight
        return np.full(shape, 0.45)
    if name == "variance":
        return np.full(shape, 0.05)
    return None


def calibrate(model: Any, inputs: np.ndarray) -> None:
    """Set the moving statistics of every batch normalisation to those of a batch.

    Statistics of one network do not fit random weights: the activations of a deep one would grow
    or vanish by orders of magnitude.
    """
    import keras

    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    before = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    model(inputs, training=True)
    for layer, momentum in zip(layers, before, strict=True):
        layer.momentum = momentum


def inputs_for(model: Any, count: int, seed: int = 0) -> np.ndarray:
    """Return smooth random pictures, (N, H, W, 3), in the range that the network takes."""
    import keras

    random = np.random.default_rng(seed)
    _, height, width, channels = model.input_shape
    coarse = random.normal(size=(count, height // 16, width // 16, channels))
    noise = 0.3 * random.normal(size=(count, height, width, channels))
    pictures = coarse.repeat(16, 1).repeat(16, 2) + noise
    scales_itself = any(
        isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)
        for layer in model.layers
    )
    return (128 + 50 * pictures if scales_itself else pictures).astype(np.float32)


def main(folder: str, names: Sequence[str]) -> None:
    for name in names:
        model = built(name, SIDES[name])
        model.save(Path(folder, f"{name}.keras"))
        np.savez(Path(folder, f"{name}.npz"), inputs=inputs_for(model, ITEMS))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
