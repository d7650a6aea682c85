"""A network without a framework: nodes, what they read, and weights as arrays."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.demo.networks import DemoNetwork

Op = Literal[
    "add", "attention", "batchnorm", "concat", "conv", "dense", "gap", "layernorm", "maxpool",
    "position", "prepend", "relu", "select", "softmax", "tokens",
]  # fmt: skip
"""What a node computes; `operators` says each exactly, and which weights it has."""


@dataclass(frozen=True)
class Node:
    """One operation: what it reads (nodes or inputs of the network), and its attributes.

    Dots in a name are modules: `features.stem.conv` is the part `conv` of `stem` of `features`.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Network:
    """What an adapter's author builds in the framework, and what the kit looks at in it.

    `inputs` maps names to `(C, *grid)`. `nodes` are in execution order; a node's weights are
    `<name>.<weight>`, float32. `outputs` maps names to nodes; `keyed` says that the model returns
    a dict of these names, else it returns the only one. `defaults` maps each output to its final
    feature map. `probes` are the nodes whose activations and gradients are compared. `dtype` is
    that of weights, inputs and arithmetic. `fold` is a token network's number of tokens before
    those of the grid, and the grid.
    """

    name: str
    inputs: Mapping[str, tuple[int, ...]]
    nodes: tuple[Node, ...]
    weights: Mapping[str, NDArray[np.float32]]
    outputs: Mapping[str, str]
    defaults: Mapping[str, str]
    probes: tuple[str, ...]
    keyed: bool = False
    dtype: Literal["float32", "float16"] = "float32"
    fold: tuple[int, tuple[int, ...]] | None = None

    def weights_of(self, node: Node) -> dict[str, NDArray[np.float32]]:
        """Return a node's weights by their names within it."""
        prefix = f"{node.name}."
        return {
            key.removeprefix(prefix): array
            for key, array in self.weights.items()
            if key.rpartition(".")[0] == node.name
        }

    @property
    def logits(self) -> dict[str, str]:
        """Nodes of the outputs' logits: what a final softmax reads, else the output itself."""
        by_name = {node.name: node for node in self.nodes}
        return {
            output: by_name[name].inputs[0] if by_name[name].op == "softmax" else name
            for output, name in self.outputs.items()
        }

    @property
    def token_nodes(self) -> frozenset[str]:
        """Nodes that make tokens `(N, T, C)`, not maps `(N, C, *grid)`."""
        found: set[str] = set()
        for node in self.nodes:
            if node.op == "tokens" or (node.op != "select" and found.issuperset(node.inputs)):
                found.add(node.name)
        return frozenset(found)

    def parts(self, scope: str = "") -> Iterator["Node | str"]:
        """Yield the nodes and, by its full name, each module directly within a module, in order.

        A module's nodes stand together, so that it can be run as a whole.
        """
        prefix, seen = f"{scope}." if scope else "", set()
        for node in self.nodes:
            if not node.name.startswith(prefix):
                continue
            first, _, deeper = node.name.removeprefix(prefix).partition(".")
            if not deeper:
                yield node
            elif first not in seen:
                seen.add(first)
                yield prefix + first

    def ends(self, scope: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return what a module reads from outside, and what of it is read outside or returned."""
        inside = {node.name for node in self.nodes if node.name.startswith(f"{scope}.")}
        read = [name for node in self.nodes if node.name in inside for name in node.inputs]
        used = {name for node in self.nodes if node.name not in inside for name in node.inputs}
        used |= set(self.outputs.values())
        return (
            tuple(dict.fromkeys(name for name in read if name not in inside)),
            tuple(node.name for node in self.nodes if node.name in inside & used),
        )


_DEMO_OPS: Mapping[str, Op] = {
    "conv": "conv", "relu": "relu", "maxpool": "maxpool", "gap": "gap", "dense": "dense",
    "softmax": "softmax",
}  # fmt: skip


def as_network(network: "DemoNetwork | Network") -> Network:
    """Return a layer-by-layer description as a graph; a graph as it is."""
    if isinstance(network, Network):
        return network
    nodes, previous = [], "image"
    for layer in network.layers:
        nodes.append(Node(layer.name, _DEMO_OPS[layer.kind], (previous,)))
        previous = layer.name
    maps = [layer.name for layer in network.layers if layer.kind in ("conv", "relu", "maxpool")]
    return Network(
        name=network.name,
        inputs={"image": (3, *network.input_size)},
        nodes=tuple(nodes),
        weights=network.weights,
        outputs={"scores": previous},
        defaults={"scores": maps[-1]} if maps else {},
        probes=tuple(maps),
    )
