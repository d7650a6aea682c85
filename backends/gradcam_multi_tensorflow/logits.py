"""Finding the tensor before a final softmax or sigmoid, without editing the model."""

from __future__ import annotations

from typing import Literal

import tensorflow as tf

_PASSED = frozenset("Identity Cast Reshape Squeeze ExpandDims".split())
_ACTIVATIONS: dict[str, Literal["softmax", "sigmoid"]] = {
    "Softmax": "softmax",
    "LogSoftmax": "softmax",
    "Sigmoid": "sigmoid",
}


def before_activation(
    output: tf.Tensor,
) -> tuple[tf.Tensor, Literal["softmax", "sigmoid"] | None]:
    """Return the logits behind an output, and the activation that stands between.

    Returns the output itself, and None, where it does not end in a softmax or sigmoid. Casts and
    reshapes behind the activation are stepped over; a softmax over an inner axis is one over the
    last axis between two transpositions, both of which are stepped over.
    """
    tensor, transposed = output, False
    while tensor.op.type in _PASSED or (tensor.op.type == "Transpose" and not transposed):
        transposed = transposed or tensor.op.type == "Transpose"
        tensor = tensor.op.inputs[0]
    activation = _ACTIVATIONS.get(tensor.op.type)
    if activation is None:
        return output, None
    logits = tensor.op.inputs[0]
    if transposed:
        if logits.op.type != "Transpose":
            return output, None
        logits = logits.op.inputs[0]
    return logits, activation
