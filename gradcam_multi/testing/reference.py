"""Every tensor and gradient of a described network, in float64, without a framework."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.demo.networks import DemoLayer, DemoNetwork
from gradcam_multi.spec import ReluRule
from gradcam_multi.testing.network import Network, as_network
from gradcam_multi.testing.operators import GUIDED, OPERATORS, Vector


def probe_network(
    *, seed: int = 0, scale: float = 1.0, softmax: bool = False, dense: str = "signed"
) -> DemoNetwork:
    """Make a small network of random weights: conv, relu, pool, conv, relu, gap, dense.

    It takes (N, 3, 16, 16) and tells 5 classes. `scale` multiplies the logits. `dense` is
    "signed", or "negative" (every channel counts against every class), or "zero".
    """
    rng = np.random.default_rng(seed)
    weights = {
        "conv1.weight": rng.normal(0, 0.3, (6, 3, 3, 3)),
        "conv1.bias": rng.normal(0, 0.1, 6),
        "conv2.weight": rng.normal(0, 0.3, (8, 6, 3, 3)),
        "conv2.bias": rng.normal(0, 0.1, 8),
        # More for than against, so that ReLU leaves something of every class's map.
        "logits.weight": rng.normal(0.8, 1, (5, 8)),
        "logits.bias": rng.normal(0, 0.1, 5),
    }
    if dense == "negative":
        weights["logits.weight"] = -np.abs(weights["logits.weight"])
    if dense == "zero":
        weights["logits.weight"] = np.zeros((5, 8))
    for name in ("logits.weight", "logits.bias"):
        weights[name] = weights[name] * scale
    layers = [
        DemoLayer("conv1", "conv"),
        DemoLayer("relu1", "relu"),
        DemoLayer("pool1", "maxpool"),
        DemoLayer("conv2", "conv"),
        DemoLayer("relu2", "relu"),
        DemoLayer("gap", "gap"),
        DemoLayer("logits", "dense"),
    ]
    if softmax:
        layers.append(DemoLayer("probabilities", "softmax"))
    return DemoNetwork(
        name="probe",
        classes=tuple("abcde"),
        input_size=(16, 16),
        preprocess="unit",
        layers=tuple(layers),
        weights={name: value.astype(np.float32) for name, value in weights.items()},
    )


def probe_inputs(count: int = 4, *, seed: int = 1) -> NDArray[np.float32]:
    """Make (count, 3, 16, 16) float32 inputs in [0, 1)."""
    return np.random.default_rng(seed).random((count, 3, 16, 16), np.float32)


class Reference:
    """Every tensor of a described network by node, in float64, and gradients to any of them.

    `inputs` is one array `(N, C, *grid)`, or one a network's input by its name. Weights and inputs
    are first rounded to the network's dtype, as the framework's are.
    """

    def __init__(
        self, network: "DemoNetwork | Network", inputs: "NDArray[Any] | Mapping[str, NDArray[Any]]"
    ) -> None:
        self.network = as_network(network)
        self.nodes = {node.name: node for node in self.network.nodes}
        self.weights = {
            node.name: {
                key: self._rounded(array) for key, array in self.network.weights_of(node).items()
            }
            for node in self.network.nodes
        }
        if not isinstance(inputs, Mapping):
            inputs = {next(iter(self.network.inputs)): inputs}
        self.tensors = {name: self._rounded(array) for name, array in inputs.items()}
        self._forward(self.tensors, set(self.tensors))

    def _rounded(self, array: NDArray[Any]) -> Vector:
        return np.asarray(array).astype(self.network.dtype).astype(np.float64)

    def _forward(self, tensors: dict[str, Vector], changed: set[str]) -> None:
        """Compute, in place, what depends on the changed tensors."""
        for node in self.network.nodes:
            if node.name not in changed and not changed.isdisjoint(node.inputs):
                values = [tensors[name] for name in node.inputs]
                forward = OPERATORS[node.op].forward
                tensors[node.name] = forward(node, self.weights[node.name], *values)
                changed.add(node.name)

    @property
    def scores(self) -> dict[str, Vector]:
        """The logits of each output by its name."""
        return {output: self.tensors[name] for output, name in self.network.logits.items()}

    @property
    def outputs(self) -> dict[str, Vector]:
        """What the model returns, by name."""
        return {output: self.tensors[name] for output, name in self.network.outputs.items()}

    @property
    def logits(self) -> Vector:
        """(N, classes) of the first output, before the softmax where there is one."""
        return next(iter(self.scores.values()))

    def vjp(
        self, cotangent: "Vector | Mapping[str, Vector]", name: str, relu: ReluRule = "plain"
    ) -> Vector:
        """Multiply a cotangent of the logits, or one an output by its name, back to a tensor.

        `name` is that of a node or of an input; `relu` is the rule by which ReLU is passed.
        """
        if not isinstance(cotangent, Mapping):
            cotangent = {next(iter(self.network.outputs)): cotangent}
        pulled: dict[str, Vector] = {}
        for output, g in cotangent.items():
            _accumulate(pulled, self.network.logits[output], np.asarray(g, np.float64))
        return self.pulled(pulled, name, relu)

    def pulled(self, given: Mapping[str, Vector], name: str, relu: ReluRule = "plain") -> Vector:
        """Multiply cotangents of any nodes' results back to a tensor before them, like `vjp`."""
        own, pulled = GUIDED if relu == "guided" else {}, dict(given)
        for node in reversed(self.network.nodes):
            if node.name == name:
                break
            if node.name in pulled:
                values = [self.tensors[source] for source in node.inputs]
                pull = own.get(node.op, OPERATORS[node.op].pull)
                parts = pull(node, self.weights[node.name], values, pulled.pop(node.name))
                for source, part in zip(node.inputs, parts, strict=True):
                    _accumulate(pulled, source, part)
        return pulled.get(name, np.zeros_like(self.tensors[name]))

    def replay(self, name: str, activation: Vector) -> Vector:
        """Return the first output's logits that another value of a tensor would give."""
        return next(iter(self.replayed(name, activation).values()))

    def replayed(self, name: str, activation: Vector) -> dict[str, Vector]:
        """Return all outputs' logits that another value of a tensor would give."""
        return self.exchanged(name, activation).scores

    def exchanged(self, name: str, activation: Vector) -> "Reference":
        """Return the run that another value of a tensor would give."""
        other = copy(self)
        other.tensors = {**self.tensors, name: activation}
        other._forward(other.tensors, {name})
        return other

    def to_core(self, name: str, tensor: Vector) -> Vector:
        """Lay out a node's tensor or gradient as a trace does, (N, C, *grid): tokens too."""
        return np.moveaxis(tensor, -1, 1) if name in self.network.token_nodes else tensor


def _accumulate(pulled: dict[str, Vector], name: str, part: Vector) -> None:
    pulled[name] = pulled[name] + part if name in pulled else part
