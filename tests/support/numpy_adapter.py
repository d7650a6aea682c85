"""A fourth adapter, on NumPy alone: the core's tests run on it, and it shows that the contract
suffices."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gradcam_multi import Layer, TensorSpec, hookimpl
from gradcam_multi.demo.networks import DemoNetwork
from gradcam_multi.errors import InputError, LayerNotOnPathError, UnknownLayerError, suggest
from gradcam_multi.testing import Reference

ROLES = {"conv": "conv", "dense": "linear", "maxpool": "pool", "gap": "pool"}


class NumpyModel:
    backend = "numpy"

    def __init__(self, network: DemoNetwork) -> None:
        self.network = network
        self.inputs = (TensorSpec("image", (None, 3, *network.input_size), "float32"),)
        activation = "softmax" if network.layers[-1].kind == "softmax" else None
        self.outputs = (TensorSpec("scores", (None, 5), "float32", activation=activation),)

    def layers(self, inputs: Any = None) -> tuple[Layer, ...]:
        blank = np.zeros((1, 3, *self.network.input_size), np.float32)
        listed, previous = [], ()
        tensors = Reference(self.network, blank).tensors
        for layer in self.network.layers:
            shape = tensors[layer.name].shape
            listed.append(
                Layer(
                    layer.name,
                    layer.kind,
                    ROLES.get(layer.kind, "other"),
                    (None, *shape[1:]),
                    1 if len(shape) > 2 else None,
                    previous,
                    "scores" if layer is self.network.layers[-1] else None,
                )
            )
            previous = (layer.name,)
        return tuple(listed)

    @contextmanager
    def trace(self, inputs: Any, layers: Any) -> Iterator["NumpyTrace"]:
        names = [layer.name for layer in self.network.layers]
        for layer in layers:
            if layer not in names:
                raise UnknownLayerError(f"no layer is called {layer!r}{suggest(layer, names)}")
        inputs = np.asarray(inputs)
        if inputs.ndim != 4 or inputs.shape[1] != 3:
            raise InputError(f"inputs of the shape {inputs.shape} were given, (N, 3, H, W) needed")
        yield NumpyTrace(self.network, Reference(self.network, inputs), layers)


class NumpyTrace:
    def __init__(self, network: DemoNetwork, reference: Reference, layers: Any) -> None:
        self.reference, self.names, self.network = reference, list(layers), network
        self.logits = {"scores": reference.logits.astype(np.float32)}
        last = reference.tensors[network.layers[-1].name]
        self.outputs = {"scores": last.astype(np.float32)}

    @property
    def activations(self) -> Any:
        return tuple(self.reference.tensors[name].astype(np.float32) for name in self.names)

    def vjp(self, cotangents: Mapping[str, Any]) -> Any:
        names = [layer.name for layer in self.network.layers]
        for name in self.names:
            if names.index(name) > names.index("logits"):
                raise LayerNotOnPathError(f"the logits do not depend on layer {name!r}")
        g = cotangents["scores"].astype(np.float64)
        return tuple(self.reference.vjp(g, name).astype(np.float32) for name in self.names)

    def replay(self, layer: str, activation: Any) -> Any:
        return {"scores": self.reference.replay(layer, activation.astype(np.float64))}


@hookimpl
def gradcam_multi_open(model: Any) -> NumpyModel | None:
    return NumpyModel(model) if isinstance(model, DemoNetwork) else None


@hookimpl
def gradcam_multi_build(network: DemoNetwork) -> DemoNetwork:
    return network
