"""Each operation of the kit's networks and its vector-Jacobian product, plainly, in NumPy.

A forward function takes `(node, weights, *inputs)`, a pull `(node, weights, inputs, cotangent)`
and gives one cotangent an input. Maps are `(N, C, *grid)`, tokens `(N, T, C)`. Nothing here is
fast; the kit's own tests hold every pull against central differences.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.testing.network import Node

Vector = NDArray[np.floating[Any]]
Weights = Mapping[str, Vector]
Forward = Callable[..., Vector]
Pull = Callable[[Node, Weights, Sequence[Vector], Vector], tuple[Vector, ...]]

EPSILON = 1e-3
"""Added to the variance by both normalisations."""


class Operator(NamedTuple):
    """A forward function and its pull."""

    forward: Forward
    pull: Pull


def conv(node: Node, weights: Weights, x: Vector) -> Vector:
    """Correlate with `weight` (out, in, *kernel), add `bias` (out,).

    Attributes: `stride` (1 where absent); zero `padding` on both sides of every axis (half the
    kernel where absent, so that the grid stays).
    """
    weight, stride, padded = weights["weight"], _stride(node), _padded(node, weights, x)
    kernel = weight.shape[2:]
    axes = tuple(range(2, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=axes)
    windows = windows[(slice(None), slice(None), *(slice(None, None, stride),) * len(kernel))]
    inner = [1, *range(x.ndim, x.ndim + len(kernel))]
    out = np.tensordot(windows, weight, axes=(inner, [1, *axes])) + weights["bias"]
    return np.moveaxis(out, -1, 1)


def pull_conv(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Add each tap's share, one offset of the kernel at a time."""
    (x,), weight, stride = inputs, weights["weight"], _stride(node)
    pulled = np.zeros_like(_padded(node, weights, x))
    for offset in np.ndindex(*weight.shape[2:]):
        reach = [slice(o, o + stride * n, stride) for o, n in zip(offset, g.shape[2:], strict=True)]
        pulled[(slice(None), slice(None), *reach)] += np.einsum(
            "no...,oi->ni...", g, weight[(slice(None), slice(None), *offset)]
        )
    edge = _padding(node, weights)
    inside = [slice(edge, edge + n) for n in x.shape[2:]]
    return (pulled[(slice(None), slice(None), *inside)],)


def _stride(node: Node) -> int:
    return int(node.attributes.get("stride", 1))


def _padding(node: Node, weights: Weights) -> int:
    return int(node.attributes.get("padding", weights["weight"].shape[2] // 2))


def _padded(node: Node, weights: Weights, x: Vector) -> Vector:
    edge = _padding(node, weights)
    return np.pad(x, ((0, 0), (0, 0), *[(edge, edge)] * (x.ndim - 2)))


def maxpool(node: Node, weights: Weights, x: Vector) -> Vector:
    """Take the largest of 2 cells along every axis, stride 2."""
    out: Vector = np.max([x[corner] for corner in _corners(x)], axis=0)
    return out


def pull_maxpool(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Give all to the largest; of equal ones the first wins."""
    (x,) = inputs
    winner = np.argmax([x[corner] for corner in _corners(x)], axis=0)
    pulled = np.zeros_like(x)
    for place, corner in enumerate(_corners(x)):
        pulled[corner] = g * (winner == place)
    return (pulled,)


def _corners(x: Vector) -> Iterator[tuple[slice, ...]]:
    for offset in np.ndindex(*(2,) * (x.ndim - 2)):
        yield (slice(None), slice(None), *(slice(o, None, 2) for o in offset))


def pull_gap(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Share evenly over the cells."""
    (x,) = inputs
    cells = np.prod(x.shape[2:])
    return (np.broadcast_to(g.reshape(*g.shape, *(1,) * (x.ndim - 2)) / cells, x.shape),)


def _channelwise(weights: Weights, x: Vector) -> tuple[Vector, Vector]:
    shape = (1, -1, *(1,) * (x.ndim - 2))
    scale = weights["weight"] / np.sqrt(weights["variance"] + EPSILON)
    shift = weights["bias"] - weights["mean"] * scale
    return scale.reshape(shape), shift.reshape(shape)


def batchnorm(node: Node, weights: Weights, x: Vector) -> Vector:
    """Normalise each channel by its stored `mean` and `variance`, then `weight` and `bias`."""
    scale, shift = _channelwise(weights, x)
    return x * scale + shift


def _standardised(x: Vector) -> tuple[Vector, Vector]:
    spread = np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    return (x - x.mean(-1, keepdims=True)) / spread, spread


def layernorm(node: Node, weights: Weights, x: Vector) -> Vector:
    """Normalise each token over its channels, then `weight` and `bias` (C,)."""
    return _standardised(x)[0] * weights["weight"] + weights["bias"]


def pull_layernorm(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Take out of the cotangent what mean and variance take out of the input."""
    unit, spread = _standardised(inputs[0])
    g = g * weights["weight"]
    along = unit * (g * unit).mean(-1, keepdims=True)
    return ((g - g.mean(-1, keepdims=True) - along) / spread,)


def softmax(node: Node, weights: Weights, x: Vector) -> Vector:
    """Exponentials over their sum, along the last axis."""
    exponential = np.exp(x - x.max(-1, keepdims=True))
    out: Vector = exponential / exponential.sum(-1, keepdims=True)
    return out


def pull_softmax(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Multiply by p, less what the sum takes."""
    p = softmax(node, weights, inputs[0])
    return (p * (g - (g * p).sum(-1, keepdims=True)),)


def _heads(node: Node, x: Vector) -> Vector:
    """(N, T, C) to (N, heads, T, C / heads)."""
    heads = int(node.attributes["heads"])
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def _merged(x: Vector) -> Vector:
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def _attend(node: Node, inputs: Sequence[Vector]) -> tuple[Vector, Vector, Vector, Vector, float]:
    q, k, v = (_heads(node, x) for x in inputs)
    scale = float(q.shape[-1]) ** -0.5
    p = softmax(node, {}, q @ k.swapaxes(-1, -2) * scale)
    return q, k, v, p, scale


def attention(node: Node, weights: Weights, *inputs: Vector) -> Vector:
    """softmax(q k' / sqrt(d)) v in `heads` groups of channels; reads queries, keys and values."""
    _, _, v, p, _ = _attend(node, inputs)
    return _merged(p @ v)


def pull_attention(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Back through the values, the softmax and the scores."""
    q, k, v, p, scale = _attend(node, inputs)
    g = _heads(node, g)
    to_p = g @ v.swapaxes(-1, -2)
    to_scores = p * (to_p - (to_p * p).sum(-1, keepdims=True)) * scale
    pulled = (to_scores @ k, to_scores.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ g)
    return tuple(_merged(each) for each in pulled)


def prepend(node: Node, weights: Weights, x: Vector) -> Vector:
    """Put the learned token `weight` (1, 1, C) before the others."""
    own = np.broadcast_to(weights["weight"], (len(x), 1, x.shape[2]))
    return np.concatenate([own, x], 1)


def pull_concat(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Cut where the inputs meet."""
    return tuple(np.split(g, np.cumsum([x.shape[1] for x in inputs])[:-1], axis=1))


def pull_select(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Nothing flows to the other tokens."""
    pulled = np.zeros_like(inputs[0])
    pulled[:, node.attributes["index"]] = g
    return (pulled,)


def pull_relu_guided(
    node: Node, weights: Weights, inputs: Sequence[Vector], g: Vector
) -> tuple[Vector, ...]:
    """Guided backpropagation: positive gradients through positive activations (arXiv:1412.6806)."""
    return (np.where((inputs[0] > 0) & (g > 0), g, 0.0),)


OPERATORS: dict[str, Operator] = {
    "add": Operator(lambda n, w, x, y: x + y, lambda n, w, xs, g: (g, g)),
    "attention": Operator(attention, pull_attention),
    "batchnorm": Operator(batchnorm, lambda n, w, xs, g: (g * _channelwise(w, xs[0])[0],)),
    # Along the channels of maps.
    "concat": Operator(lambda n, w, *xs: np.concatenate(xs, 1), pull_concat),
    "conv": Operator(conv, pull_conv),
    # Over the last axis, `weight` (out, in) and `bias` (out,): scores, or tokens one by one.
    "dense": Operator(
        lambda n, w, x: x @ w["weight"].T + w["bias"], lambda n, w, xs, g: (g @ w["weight"],)
    ),
    # The mean over the grid, (N, C, *grid) to (N, C).
    "gap": Operator(lambda n, w, x: x.mean(tuple(range(2, x.ndim))), pull_gap),
    "layernorm": Operator(layernorm, pull_layernorm),
    "maxpool": Operator(maxpool, pull_maxpool),
    # Learned positions, `weight` (1, T, C), added to the tokens.
    "position": Operator(lambda n, w, x: x + w["weight"], lambda n, w, xs, g: (g,)),
    "prepend": Operator(prepend, lambda n, w, xs, g: (g[:, 1:],)),
    "relu": Operator(lambda n, w, x: np.maximum(x, 0), lambda n, w, xs, g: (g * (xs[0] > 0),)),
    # The token of an `index`, (N, T, C) to (N, C).
    "select": Operator(lambda n, w, x: x[:, n.attributes["index"]], pull_select),
    "softmax": Operator(softmax, pull_softmax),
    # The cells of a map in C order, (N, C, *grid) to (N, T, C).
    "tokens": Operator(
        lambda n, w, x: x.reshape(*x.shape[:2], -1).swapaxes(1, 2),
        lambda n, w, xs, g: (g.swapaxes(1, 2).reshape(xs[0].shape),),
    ),
}
"""Every operation that a description may hold."""

GUIDED: dict[str, Pull] = {"relu": pull_relu_guided}
"""Pulls that guided backpropagation has in place of the derivative."""
