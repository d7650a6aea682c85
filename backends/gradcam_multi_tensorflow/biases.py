"""The biases of Keras' own layers in a traced graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gradcam_multi.spec import Array, Bias
from gradcam_multi_tensorflow import roles
from gradcam_multi_tensorflow.calls import leaves
from gradcam_multi_tensorflow.graph import Graph
from gradcam_multi_tensorflow.listing import Node
from gradcam_multi_tensorflow.logits import before_activation

_RECTIFIERS = ("Relu", "Relu6")


def biases_of(graph: Graph) -> dict[str, Bias]:
    """Return the bias of each listed convolution, dense layer and batch normalisation.

    Where an activation is part of a layer, what that reads becomes a node of the graph that is not
    listed. Layers with other activations than ReLU, softmax and sigmoid are left out.
    """
    made = {
        call.outputs[0].name: call.operation
        for call in leaves(graph.calls).values()
        if len(call.outputs) == 1
    }
    found = {}
    for name, node in graph.listing.nodes.items():
        operation = made.get(node.tensor.name)
        values = None if operation is None else _bias(operation)
        tensor = None if values is None else _before(operation, node.tensor)
        if values is None or tensor is None or len(values) != _channels(node):
            continue
        if tensor is node.tensor:
            found[name] = Bias(values)
        else:
            place = f"{name}:before"
            inside = Node(replace(node.layer, name=place, output=None), tensor)
            graph.unlisted.setdefault(place, inside)  # plans are kept by their nodes
            found[name] = Bias(values, place)
    return found


def _bias(layer: Any) -> Array | None:
    if isinstance(layer, keras.layers.BatchNormalization):
        mean, variance = _value(layer.moving_mean), _value(layer.moving_variance)
        gamma = _value(layer.gamma) if layer.scale else 1.0
        beta = _value(layer.beta) if layer.center else 0.0
        moved: Array = (beta - gamma * mean / np.sqrt(variance + layer.epsilon)).astype(np.float32)
        return moved
    bias = getattr(layer, "bias", None)
    if roles.of_class(layer) not in ("conv", "linear") or bias is None or len(bias.shape) != 1:
        return None
    return _value(bias).astype(np.float32)


def _value(weight: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(keras.ops.convert_to_numpy(weight), np.float64)


def _before(layer: Any, tensor: tf.Tensor) -> tf.Tensor | None:
    """What the layer's activation reads; None for one that is not known."""
    activation = getattr(layer, "activation", None)
    if activation in (None, keras.activations.linear):
        return tensor
    if tensor.op.type in _RECTIFIERS:
        return tensor.op.inputs[0]
    logits, known = before_activation(tensor)
    return None if known is None or logits.shape.rank != tensor.shape.rank else logits


def _channels(node: Node) -> int | None:
    """The number of channels; that of a row of numbers is its last extent."""
    shape, axis = node.layer.shape, node.layer.channel_axis
    if shape is None or (axis is None and len(shape) != 2):
        return None
    return shape[1 if axis is None else axis]
