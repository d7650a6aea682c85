"""A program: explains Keras models on the backend that KERAS_BACKEND names, and stores the maps.

Keras chooses its backend once for a process, so each backend is run in a process of its own. The
models are `.keras` files in a folder, and those that are written here, by Keras' own functions
alone.
"""

import sys
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

import gradcam_multi as gm
from gradcam_multi import errors

LAYERS = {
    "siamese": ("backbone#2", "joined"),
    "small_resnet": ("block1_2_conv", "block2_add"),
    "vision_transformer": ("norm1a",),
    "transfer": ("base", "rescale"),
}
"""Layers that are traced besides the default one; those that do not fit must be refused."""


class Block(layers.Layer):
    """A user's residual block; its addition is Python's, its ReLU a function."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(width, 3, padding="same", use_bias=False, name="conv")
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], self.conv.filters))

    def call(self, x):
        return ops.relu(x + self.norm(self.conv(x)))


class Subclassed(keras.Model):
    """Unbuilt until called; ends in a mean and a softmax that are functions."""

    def __init__(self):
        super().__init__(name="subclassed")
        self.stem = layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")
        self.blocks = [Block(8, name=f"block{n}") for n in range(2)]
        self.head = layers.Dense(5, name="head")
        self.unused = layers.Dense(2, name="unused")

    def call(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return {"scores": ops.softmax(self.head(ops.mean(x, axis=[1, 2])))}


class Tail(Subclassed):
    """Ends in operators of the framework's own, which no watch of Keras sees."""

    def call(self, x):
        x = self.blocks[0](self.stem(x)) * 2.0
        return self.head(ops.mean(x, axis=[1, 2])) - 1.0


def written_here():
    """Make the models of this file, with the same weights on every backend."""
    for build in (Subclassed, Tail):
        model = build()
        model(np.zeros((1, 18, 18, 3), np.float32))
        rng = np.random.default_rng(2)
        for weight in model.weights:
            spread = rng.normal(0, 0.3, weight.shape)
            weight.assign(1 + np.abs(spread) if "variance" in weight.path else spread)
        yield build.__name__.lower(), model, rng.normal(size=(3, 18, 18, 3)).astype(np.float32)


def stored(folder):
    """Load the files, with inputs for each."""
    for path in sorted(folder.glob("*.keras")):
        model = keras.saving.load_model(path, compile=False)
        rng = np.random.default_rng(1)
        inputs = tuple(rng.normal(size=(3, *t.shape[1:])).astype(np.float32) for t in model.inputs)
        yield path.stem, model, inputs if len(inputs) > 1 else inputs[0]


def main(folder, target):
    """Explain each model's top class at its default layer, and keep what there is to compare."""
    found = {}
    for name, model, inputs in (*stored(Path(folder)), *written_here()):
        # Of two outputs that could be class scores, neither is taken unasked.
        explainer = gm.Explainer(model, output="main" if name == "two_outputs" else None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gm.CamWarning)
            explanation = explainer(inputs)
        found[f"{name}|cam"] = explanation.cam
        found[f"{name}|logits"] = explanation.logits
        opened = explainer.model
        layouts = [spec.layout for spec in opened.inputs]
        said = [
            explanation.layer,
            explanation.output,
            explanation.activation,
            layouts,
            opened.accelerated,
        ]
        found[f"{name}|said"] = np.array([*map(str, said), *explanation.status])
        for layer in LAYERS.get(name, ()):
            with opened.trace(inputs, [layer]) as trace:
                z = trace.logits[explanation.output]
                cotangent = np.random.default_rng(3).normal(size=z.shape).astype(np.float32)
                found[f"{name}|{layer}|activation"] = trace.activations[0]
                try:
                    (gradient,) = trace.vjp({explanation.output: cotangent})
                except errors.LayerNotOnPathError:
                    gradient = np.zeros(0)
                found[f"{name}|{layer}|gradient"] = gradient
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
