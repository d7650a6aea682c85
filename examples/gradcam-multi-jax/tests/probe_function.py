"""The conformance kit's networks as plain JAX functions, channels first."""

import jax
import jax.numpy as jnp
from gradcam_multi_jax import JaxModel
from jax import lax

from gradcam_multi.testing import EPSILON


def build(network):
    """Build a described network: its nodes run under their own names, modules around them."""
    params = {name: jnp.asarray(w, network.dtype) for name, w in network.weights.items()}

    def run(params, inputs):
        values = dict(inputs)
        for node in network.nodes:
            prefix = f"{node.name}."
            own = {k.removeprefix(prefix): w for k, w in params.items() if k.startswith(prefix)}
            with jax.named_scope(node.name.replace(".", "/")):
                values[node.name] = FUNCTIONS[node.op](node, own, *(values[n] for n in node.inputs))
        made = {output: values[name] for output, name in network.outputs.items()}
        return made if network.keyed else next(iter(made.values()))

    def one(params, image):
        return run(params, {next(iter(network.inputs)): image})

    def two(params, left, right):
        return run(params, {"left": left, "right": right})

    return JaxModel(two if len(network.inputs) == 2 else one, params)


def conv(node, own, x):
    rank = x.ndim - 2
    padding = node.attributes.get("padding", own["weight"].shape[2] // 2)
    stride = node.attributes.get("stride", 1)
    out = lax.conv_general_dilated(x, own["weight"], [stride] * rank, [(padding, padding)] * rank)
    return out + own["bias"].reshape(-1, *(1,) * rank)


def maxpool(node, own, x):
    window = (1, 1, *(2,) * (x.ndim - 2))
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def batchnorm(node, own, x):
    shape = (-1, *(1,) * (x.ndim - 2))
    scale = own["weight"] * lax.rsqrt(own["variance"] + EPSILON)
    return x * scale.reshape(shape) + (own["bias"] - own["mean"] * scale).reshape(shape)


def layernorm(node, own, x):
    unit = (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1, keepdims=True) + EPSILON)
    return unit * own["weight"] + own["bias"]


def attention(node, own, *inputs):
    n, tokens, width = inputs[0].shape
    heads = node.attributes["heads"]
    q, k, v = (x.reshape(n, tokens, heads, width // heads) for x in inputs)
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / jnp.sqrt(width / heads)
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores), v).reshape(n, tokens, width)


def prepend(node, own, x):
    return jnp.concatenate([jnp.broadcast_to(own["weight"], (len(x), 1, x.shape[2])), x], 1)


FUNCTIONS = {
    "add": lambda node, own, x, y: x + y,
    "attention": attention,
    "batchnorm": batchnorm,
    "concat": lambda node, own, *inputs: jnp.concatenate(inputs, 1),
    "conv": conv,
    "dense": lambda node, own, x: x @ own["weight"].T + own["bias"],
    "gap": lambda node, own, x: x.mean(tuple(range(2, x.ndim))),
    "layernorm": layernorm,
    "maxpool": maxpool,
    "position": lambda node, own, x: x + own["weight"],
    "prepend": prepend,
    "relu": lambda node, own, x: jax.nn.relu(x),
    "select": lambda node, own, x: x[:, node.attributes["index"]],
    "softmax": lambda node, own, x: jax.nn.softmax(x),
    "tokens": lambda node, own, x: x.reshape(*x.shape[:2], -1).swapaxes(1, 2),
}
