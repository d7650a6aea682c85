"""The conformance kit's networks as functional Keras models, channels last."""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

from gradcam_multi.testing import EPSILON, Network, Node


def build(network: Network) -> keras.Model:
    """Build a described network; its parts have their names, modules are models of their own."""
    values = {
        name: keras.Input((*shape[1:], shape[0]), name=name, dtype=network.dtype)
        for name, shape in network.inputs.items()
    }
    inputs = dict(values)
    _run(network, "", values)
    made = {output: values[name] for output, name in network.outputs.items()}
    return keras.Model(
        inputs if len(inputs) > 1 else next(iter(inputs.values())),
        made if network.keyed else next(iter(made.values())),
        name=network.name,
    )


def _run(network: Network, scope: str, values: dict[str, Any]) -> None:
    for part in network.parts(scope):
        if isinstance(part, Node):
            values[part.name] = _apply(network, part, [values[name] for name in part.inputs])
            continue
        reads, makes = network.ends(part)
        inner = {name: keras.Input(values[name].shape[1:]) for name in reads}
        inputs = list(inner.values())
        _run(network, part, inner)
        model = keras.Model(inputs, [inner[name] for name in makes], name=part.rpartition(".")[2])
        made = model([values[name] for name in reads])
        values.update(zip(makes, made if isinstance(made, list) else [made], strict=True))


@keras.saving.register_keras_serializable(package="gradcam_multi_kit")
class Learned(layers.Layer):
    """A learned tensor, put before the tokens or added to them."""

    def __init__(self, shape, before, **kwargs):
        super().__init__(**kwargs)
        self.shape, self.before = tuple(shape), before
        self.weight = self.add_weight(shape=self.shape, name="weight")

    def call(self, x):
        if self.before:
            own = ops.broadcast_to(self.weight, (ops.shape(x)[0], *self.shape[1:]))
            return ops.concatenate([own, x], axis=1)
        return x + self.weight

    def get_config(self):
        return {**super().get_config(), "shape": self.shape, "before": self.before}


@keras.saving.register_keras_serializable(package="gradcam_multi_kit")
class Attention(layers.Layer):
    """Scaled dot products in groups of channels."""

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, q, k, v):
        size = q.shape[-1] // self.heads
        q, k, v = (ops.reshape(x, (-1, x.shape[1], self.heads, size)) for x in (q, k, v))
        weights = ops.softmax(ops.einsum("nqhd,nkhd->nhqk", q, k) * size**-0.5)
        out = ops.einsum("nhqk,nkhd->nqhd", weights, v)
        return ops.reshape(out, (-1, out.shape[1], self.heads * size))

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


def _apply(network: Network, node: Node, inputs: list[Any]) -> Any:
    named: dict[str, Any] = {"name": node.name.rpartition(".")[2], "dtype": network.dtype}
    last = {"data_format": "channels_last"}
    weights = network.weights_of(node)
    grid = str(len(inputs[0].shape) - 2) + "D"
    if node.op in ("conv", "dense"):
        return _weighted(node, weights, inputs[0], grid, named)
    if node.op == "tokens":
        x = inputs[0]
        return layers.Reshape((int(np.prod(x.shape[1:-1])), x.shape[-1]), **named)(x)
    if node.op == "select":
        index = node.attributes["index"]
        return layers.Lambda(lambda x: x[:, index], **named)(inputs[0])
    if node.op in ("prepend", "position"):
        layer = Learned(weights["weight"].shape, node.op == "prepend", **named)
    else:
        layer = {
            "add": lambda: layers.Add(**named),
            "attention": lambda: Attention(node.attributes["heads"], **named),
            "batchnorm": lambda: layers.BatchNormalization(epsilon=EPSILON, **named),
            "concat": lambda: layers.Concatenate(axis=-1, **named),
            "gap": lambda: getattr(layers, f"GlobalAveragePooling{grid}")(**named, **last),
            "layernorm": lambda: layers.LayerNormalization(epsilon=EPSILON, **named),
            "maxpool": lambda: getattr(layers, f"MaxPooling{grid}")(2, **named, **last),
            "relu": lambda: layers.ReLU(**named),
            "softmax": lambda: layers.Softmax(**named),
        }[node.op]()
    merged = inputs if node.op in ("add", "concat") else None
    made = layer(merged) if merged else layer(*inputs)
    if weights:
        order = ("weight", "bias", "mean", "variance")
        layer.set_weights([weights[name] for name in order if name in weights])
    return made


def _weighted(node: Node, weights: Any, x: Any, grid: str, named: dict[str, Any]) -> Any:
    # Keras keeps (*kernel, in, out) and (in, out); the description (out, in, *kernel).
    weight = weights["weight"]
    kernel = np.moveaxis(weight, (0, 1), (-1, -2))
    if node.op == "dense":
        layer = layers.Dense(len(weight), **named)
    else:
        padding = "valid" if node.attributes.get("padding") == 0 else "same"
        layer = getattr(layers, f"Conv{grid}")(
            len(weight),
            weight.shape[2:],
            strides=node.attributes.get("stride", 1),
            padding=padding,
            data_format="channels_last",
            **named,
        )
    made = layer(x)
    layer.set_weights([kernel, weights["bias"]])
    return made
