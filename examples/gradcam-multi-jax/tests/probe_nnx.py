"""The conformance kit's networks as Flax NNX modules, channels last."""

import jax.numpy as jnp
import numpy as np
import probe_function
from flax import nnx

from gradcam_multi.testing import EPSILON, Node


def build(network):
    """Build a described network; its modules have the description's names."""
    return Root(network)


class Block(nnx.Module):
    """A module of the description: runs its parts in order."""

    def __init__(self, network, scope=""):
        steps = []
        for part in network.parts(scope):
            name = part.name if isinstance(part, Node) else part
            own = name.rpartition(".")[2]
            if isinstance(part, Node):
                module, reads, makes = _part(network, part), part.inputs, (name,)
            else:
                module, (reads, makes) = Block(network, part), network.ends(part)
            setattr(self, own, module)
            steps.append((own, reads, makes))
        self.steps = nnx.static(tuple(steps))
        self.ends = nnx.static(network.ends(scope) if scope else ((), ()))

    def run(self, values):
        for own, reads, makes in self.steps:
            result = getattr(self, own)(*(values[name] for name in reads))
            values.update(zip(makes, result if len(makes) > 1 else (result,), strict=True))
        return values

    def __call__(self, *inputs):
        values = self.run(dict(zip(self.ends[0], inputs, strict=True)))
        made = tuple(values[name] for name in self.ends[1])
        return made if len(made) > 1 else made[0]


class Root(Block):
    def __init__(self, network):
        super().__init__(network)
        self.names = nnx.static(tuple(network.inputs))
        self.returned, self.keyed = nnx.static(tuple(network.outputs.items())), network.keyed

    def __call__(self, left, right=None):
        given = (left,) if right is None else (left, right)
        values = self.run(dict(zip(self.names, given, strict=True)))
        made = {output: values[name] for output, name in self.returned}
        return made if self.keyed else next(iter(made.values()))


class Apply(nnx.Module):
    """A function, and the weights that it takes."""

    def __init__(self, node, weights, dtype):
        self.node = nnx.static(node)
        self.own = nnx.data({k: nnx.Param(jnp.asarray(w, dtype)) for k, w in weights.items()})

    def __call__(self, *inputs):
        own = {name: weight[...] for name, weight in self.own.items()}
        return FUNCTIONS[self.node.op](self.node, own, *inputs)


def _part(network, node):
    weights, dtype = network.weights_of(node), network.dtype
    rngs, types = nnx.Rngs(0), {"dtype": dtype, "param_dtype": dtype}
    shape = weights["weight"].shape if weights else ()
    if node.op == "conv":
        padding = node.attributes.get("padding", shape[2] // 2)
        part = nnx.Conv(
            shape[1], shape[0], shape[2:], node.attributes.get("stride", 1),
            padding=[(padding, padding)] * len(shape[2:]), rngs=rngs, **types,
        )  # fmt: skip
        arrays = {"kernel": np.moveaxis(weights["weight"], (0, 1), (-1, -2))}
    elif node.op == "dense":
        part = nnx.Linear(shape[1], shape[0], rngs=rngs, **types)
        arrays = {"kernel": weights["weight"].T}
    elif node.op == "batchnorm":
        part = nnx.BatchNorm(shape[0], epsilon=EPSILON, rngs=rngs, **types)
        arrays = {
            k: weights[w] for k, w in (("scale", "weight"), ("mean",) * 2, ("var", "variance"))
        }
    elif node.op == "layernorm":
        part = nnx.LayerNorm(shape[0], epsilon=EPSILON, rngs=rngs, **types)
        arrays = {"scale": weights["weight"]}
    else:
        return Apply(node, weights, dtype)
    for name, array in {**arrays, "bias": weights["bias"]}.items():
        getattr(part, name)[...] = jnp.asarray(array, dtype)
    return part


FUNCTIONS = {
    **probe_function.FUNCTIONS,
    "concat": lambda node, own, *inputs: jnp.concatenate(inputs, -1),
    "gap": lambda node, own, x: x.mean(tuple(range(1, x.ndim - 1))),
    "maxpool": lambda node, own, x: nnx.max_pool(x, (2,) * (x.ndim - 2), (2,) * (x.ndim - 2)),
    "relu": lambda node, own, x: nnx.relu(x),
    "softmax": lambda node, own, x: nnx.softmax(x),
    "tokens": lambda node, own, x: x.reshape(len(x), -1, x.shape[-1]),
}
