"""FullGrad as its paper writes it: slowly, one item, one channel and one cell at a time.

In float64. A layer's bias is what it returns where its input is zero: nothing is shared with the
package's own reading of weights.
"""

from functools import partial

import numpy as np
from cam_references import cells, slow_resize

from gradcam_multi.testing import Reference
from gradcam_multi.testing.operators import OPERATORS

ADDING = ("conv", "dense", "batchnorm")


def slow_contributions(network, inputs, output, chosen, image):
    """The input's contribution, (channels, *size), and each biased layer's, (C, *grid)."""
    alone = Reference(network, inputs)
    cotangent = {output: np.eye(alone.scores[output].shape[1])[[chosen]]}
    layers = {}
    for node in network.nodes:
        gradient = alone.vjp(cotangent, node.name)[0]
        if node.op in ADDING and gradient.any():  # none: the output does not depend on it
            nothing = np.zeros_like(alone.tensors[node.inputs[0]])
            bias = OPERATORS[node.op].forward(node, alone.weights[node.name], nothing)[0]
            middle = tuple(n // 2 for n in bias.shape[1:])  # every cell has the same
            layers[node.name] = bias[:, *middle].reshape(-1, *(1,) * len(middle)) * gradient
    given = {name: alone.tensors[name] * alone.vjp(cotangent, name) for name in network.inputs}
    return {name: array[0] for name, array in given.items()}, layers


def scaled(values):
    low, high = min(values), max(values)
    if high - low <= 1e-6 * high:  # rounding in float32 is no pattern
        return [0.0 for _ in values]
    return [(value - low) / (high - low) for value in values]


def slow_fullgrad(network, inputs, output, chosen, image, whole=False):
    given, layers = slow_contributions(network, inputs, output, chosen, image)
    size = given[image].shape[1:]
    out = np.zeros(size)
    for array in [given[image], *layers.values()]:
        if array.ndim != len(size) + 1:
            continue
        grid = array.shape[1:]
        magnitudes = [[abs(channel[p]) for p in cells(grid)] for channel in array]
        if whole:
            flat = scaled([value for channel in magnitudes for value in channel])
            rows = np.reshape(flat, array.shape)
        else:
            rows = [np.reshape(scaled(channel), grid) for channel in magnitudes]
        for row in rows:
            out += slow_resize(row, size)
    return out


OF_BIASES = {
    "fullgrad": slow_fullgrad,
    "fullgrad-official": partial(slow_fullgrad, whole=True),
}
