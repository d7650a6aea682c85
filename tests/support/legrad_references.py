"""LeGrad as its paper writes it: slowly, with every attention's weights written out, in float64."""

import numpy as np

from gradcam_multi.testing import Reference
from gradcam_multi.testing.operators import OPERATORS

STEP = 1e-5  # central differences in float64: their error is of its square, 1e-10


def slow_weights_gradient(network, inputs, output, chosen, place):
    """dS/dA of one item's block `place`, (heads, T, T), by moving each weight of A up and down.

    S is what the network's own head gives to the block's tokens in place of the last block's.
    """
    alone = Reference(network, inputs)
    products = [node for node in network.nodes if node.op == "attention"]
    ends = [node.name for node in network.nodes if node.name.endswith("_add2")]
    node, end = products[place], ends[place]
    queries, keys, values = (alone.tensors[name][0] for name in node.inputs)
    heads = node.attributes["heads"]
    weights, own = np.zeros((heads, len(queries), len(keys))), []
    for h, (q, k, v) in enumerate(
        zip(*(np.split(x, heads, 1) for x in (queries, keys, values)), strict=True)
    ):
        scores = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        weights[h] = scores / scores.sum(1, keepdims=True)
        own.append(v)

    def score(a):
        made = np.concatenate([a[h] @ own[h] for h in range(heads)], 1)[None]
        tokens = computed(alone, node.name, made)[end]
        return computed(alone, ends[-1], tokens)[network.logits[output]][0, chosen]

    out = np.zeros_like(weights)
    for where in np.ndindex(*weights.shape):
        moved = np.zeros_like(weights)
        moved[where] = STEP
        out[where] = (score(weights + moved) - score(weights - moved)) / (2 * STEP)
    return out


def computed(reference, name, value):
    """Every tensor of a network with one of them exchanged; those behind it are computed again."""
    tensors, changed = {**reference.tensors, name: value}, {name}
    for node in reference.network.nodes:
        if node.name not in changed and not changed.isdisjoint(node.inputs):
            given = [tensors[source] for source in node.inputs]
            tensors[node.name] = OPERATORS[node.op].forward(
                node, reference.weights[node.name], *given
            )
            changed.add(node.name)
    return tensors


def slow_map(gradients, prefix, grid):
    """The mean over blocks, heads and queries of what is positive in (heads, T, T) gradients."""
    out = np.zeros(grid)
    for gradient in gradients:
        heads, queries, _ = gradient.shape
        for h in range(heads):
            for i in range(queries):
                for cell, g in enumerate(gradient[h, i, prefix:]):
                    out[np.unravel_index(cell, grid)] += max(g, 0) / (heads * queries)
    return out / len(gradients)


def slow_legrad(network, inputs, output, chosen):
    """The map of one item of a kit's network of tokens."""
    blocks = sum(node.op == "attention" for node in network.nodes)
    found = [slow_weights_gradient(network, inputs, output, chosen, b) for b in range(blocks)]
    return slow_map(found, *network.fold)


OF_TOKENS = {"legrad": slow_legrad}
"""The methods of token models, against the references."""
