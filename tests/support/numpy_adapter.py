"""A further adapter, on NumPy alone: the core's tests run on it, and it shows that the contract
suffices."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gradcam_multi import Layer, TensorSpec, hookimpl
from gradcam_multi.backward import (
    check_floating,
    check_outputs,
    check_rule,
    find_input,
    no_relu,
)
from gradcam_multi.demo.networks import DemoNetwork
from gradcam_multi.errors import InputError, LayerNotOnPathError, UnknownLayerError, suggest
from gradcam_multi.spec import Bias
from gradcam_multi.testing import Network, Reference
from gradcam_multi.testing.network import as_network
from gradcam_multi.testing.operators import EPSILON

ROLES = {
    "attention": "attention", "conv": "conv", "dense": "linear", "gap": "pool", "maxpool": "pool",
}  # fmt: skip


class NumpyModule:
    """A model object: the network, and a flag of the kind that frameworks have."""

    def __init__(self, network: DemoNetwork | Network) -> None:
        self.network = as_network(network)
        self.training = True


class NumpyTrace:
    def __init__(
        self, network: Network, inputs: dict[str, Any], layers: Any, relu: Any = "plain"
    ) -> None:
        self.network, self.names, self.relu = network, list(layers), relu
        with np.errstate(invalid="ignore"):  # as frameworks do, it says nothing of NaN
            self.reference = Reference(network, inputs)
        self.logits = {n: v.astype(np.float32) for n, v in self.reference.scores.items()}
        self.outputs = {n: v.astype(np.float32) for n, v in self.reference.outputs.items()}

    @property
    def activations(self) -> Any:
        return tuple(self._core(name, self.reference.tensors[name]) for name in self.names)

    def vjp(self, cotangents: Mapping[str, Any]) -> Any:
        check_outputs(self.relu == "guided", cotangents)
        for name in self.names:
            if name not in self._before(cotangents):
                raise LayerNotOnPathError(f"{', '.join(cotangents)} depends not on layer {name!r}")
        pull = self.reference.vjp
        return tuple(self._core(n, pull(cotangents, n, self.relu)) for n in self.names)

    def replay(self, layer: str, activation: Any) -> Any:
        activation = activation.astype(np.float64)
        tokens = layer in self.network.token_nodes
        return self.reference.replayed(
            layer, np.moveaxis(activation, 1, -1) if tokens else activation
        )

    def _core(self, name: str, tensor: Any) -> Any:
        return self.reference.to_core(name, tensor).astype(np.float32)

    def _before(self, outputs: Any) -> set[str]:
        """Names of the nodes on which the outputs' logits depend."""
        found = {self.network.logits[output] for output in outputs}
        for node in reversed(self.network.nodes):
            found |= set(node.inputs) if node.name in found else set()
        return found


class NumpyBlocks:
    """A run with its blocks of attention kept."""

    def __init__(self, network: Network, inputs: dict[str, Any], blocks: Any) -> None:
        self.network, self.blocks = network, blocks
        self.reference = Reference(network, inputs)
        self.tokens = tuple(self._core(self.reference.tensors[b.tokens]) for b in blocks)

    def head(self, tokens: Any, cotangents: Any) -> Any:
        last = self.blocks[-1].tokens
        other = self.reference.exchanged(last, np.moveaxis(tokens.astype(np.float64), 1, 2))
        asked = cotangents({n: v.astype(np.float32) for n, v in other.scores.items()})
        return self._core(other.vjp(asked, last))

    def attended(self, block: int, cotangent: Any) -> Any:
        own = self.blocks[block]
        given = {own.tokens: np.moveaxis(cotangent.astype(np.float64), 1, 2)}
        gradient = self.reference.pulled(given, own.attention)
        node = next(node for node in self.network.nodes if node.name == own.attention)
        values = self.reference.tensors[node.inputs[2]]
        heads = node.attributes["heads"]
        return tuple(
            np.stack(np.split(x, heads, -1), 1).astype(np.float32) for x in (gradient, values)
        )

    @staticmethod
    def _core(tensor: Any) -> Any:
        return np.moveaxis(tensor, 1, 2).astype(np.float32)


class NumpyModel:
    backend = "numpy"
    trace_class = NumpyTrace
    blocks_class = NumpyBlocks

    def __init__(self, module: NumpyModule) -> None:
        self.module, self.network = module, module.network
        network = self.network
        self.names = [node.name for node in network.nodes]
        self.inputs = tuple(
            TensorSpec(name, (None, *shape), network.dtype, "channels_first")
            for name, shape in network.inputs.items()
        )
        self.outputs = tuple(
            TensorSpec(name, (None, 5), network.dtype, activation="softmax" if stepped else None)
            for name, stepped in ((n, network.logits[n] != m) for n, m in network.outputs.items())
        )

    def layers(self, inputs: Any = None) -> tuple[Layer, ...]:
        shapes = self.network.inputs
        blank = {name: np.zeros((1, *shape), np.float32) for name, shape in shapes.items()}
        tensors, tokens = Reference(self.network, blank).tensors, self.network.token_nodes
        made = {node: output for output, node in self.network.outputs.items()}
        return tuple(
            Layer(
                node.name,
                node.op,
                ROLES.get(node.op, "other"),
                (None, *tensors[node.name].shape[1:]),
                (2 if node.name in tokens else 1) if tensors[node.name].ndim > 2 else None,
                tuple(name for name in node.inputs if name in self.names),
                made.get(node.name),
            )
            for node in self.network.nodes
        )

    def biases(self, inputs: Any) -> dict[str, Bias]:
        found = {}
        for node in self.network.nodes:
            weights = self.network.weights_of(node)
            if node.op in ("conv", "dense"):
                found[node.name] = Bias(weights["bias"])
            elif node.op == "batchnorm":
                scale = weights["weight"] / np.sqrt(weights["variance"] + EPSILON)
                found[node.name] = Bias(weights["bias"] - weights["mean"] * scale)
        return found

    @contextmanager
    def trace(self, inputs: Any, layers: Any, *, relu: Any = "plain") -> Iterator[NumpyTrace]:
        if check_rule(relu) and all(node.op != "relu" for node in self.network.nodes):
            raise no_relu(f"the network {self.network.name!r}")
        bound = self.bind(inputs)
        for layer in layers:
            if find_input(layer, list(bound), self.names) is not None:
                dtype = np.asarray(bound[layer]).dtype
                check_floating(layer, str(dtype), dtype.kind == "f")
            elif layer not in self.names:
                raise UnknownLayerError(f"no layer is called {layer!r}{suggest(layer, self.names)}")
        yield self.trace_class(self.network, bound, layers, relu)

    @contextmanager
    def trace_blocks(self, inputs: Any, blocks: Any) -> Iterator[NumpyBlocks]:
        yield self.blocks_class(self.network, self.bind(inputs), blocks)

    def bind(self, inputs: Any) -> dict[str, Any]:
        """Inputs by name, from an array, a tuple or a dict; raises InputError."""
        if not isinstance(inputs, Mapping):
            values = inputs if isinstance(inputs, tuple) else (inputs,)
            inputs = dict(zip(self.network.inputs, values, strict=True))
        for name, shape in self.network.inputs.items():
            given = np.shape(inputs[name])
            if len(given) != len(shape) + 1 or given[1] != shape[0]:
                raise InputError(f"inputs of the shape {given} were given, (N, *{shape}) needed")
        return dict(inputs)


@hookimpl
def gradcam_multi_open(model: Any) -> NumpyModel | None:
    if isinstance(model, DemoNetwork | Network):
        model = NumpyModule(model)
    return NumpyModel(model) if isinstance(model, NumpyModule) else None


@hookimpl
def gradcam_multi_build(network: DemoNetwork) -> DemoNetwork:
    return network


@hookimpl
def gradcam_multi_reweigh(model: Any, change: Any) -> DemoNetwork | Network | None:
    network = model.network if isinstance(model, NumpyModule) else model
    if not isinstance(network, DemoNetwork | Network):
        return None
    weights = {key: change(key.rpartition(".")[0], w.copy()) for key, w in network.weights.items()}
    return type(network)(**{**vars(network), "weights": weights})
