"""What an adapter's author provides for the kit, and what the kit's tests share."""

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from gradcam_multi.demo.networks import DemoNetwork
from gradcam_multi.explainer import Explainer
from gradcam_multi.spec import Inputs
from gradcam_multi.testing.network import Network, as_network
from gradcam_multi.testing.networks import NETWORKS

# A handful of float32 roundings through two small convolutions, relative to the largest value.
FLOAT32 = 2e-5
# 11 bits, 5e-4 a rounding, through a few layers.
HALF = 2e-2


@dataclass(frozen=True)
class Variant:
    """A model in another state, the caller's mode around the call, and what it may cost in
    accuracy, relative to the map's largest value, with the reason.
    """

    model: Any
    tolerance: float
    reason: str
    mode: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext


class AdapterCase:
    """One adapter under test: its framework's models, states and layouts."""

    backend: str

    unsupported: ClassVar[Mapping[str, str]] = {}
    """Networks of the set that the framework cannot have, each with the reason: shown as skips."""

    unguided: ClassVar[str] = ""
    """Why the framework cannot replace ReLU's rule, shown as a skip; empty where it can."""

    def build(self, network: Network) -> Any:
        """Build a described network in the adapter's framework, as its users would write it."""
        raise NotImplementedError("an adapter's tests must build the described networks")

    def layout(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Turn (N, C, *grid) inputs into the layout that the built model takes."""
        return inputs

    def layer(self, name: str) -> str:
        """Return what the adapter calls a node of the described network."""
        return name

    def snapshot(self, model: Any) -> Any:
        """Return all state of a model that a call might touch, comparable by ``==``."""
        raise NotImplementedError("an adapter's tests must say what state its models have")

    def variants(self, network: Network) -> Mapping[str, Variant]:
        """Return the network frozen, in lower precision, under the caller's modes, by name."""
        raise NotImplementedError("an adapter's tests must name the states a model can be in")

    def ignoring_model(self) -> tuple[Any, str, NDArray[Any]]:
        """Return a model, a layer of it that its output ignores, and inputs."""
        raise NotImplementedError("an adapter's tests must offer a model that ignores a layer")

    def explainer(self, network: Network | DemoNetwork, **options: Any) -> Explainer:
        """Open a freshly built network with this adapter only."""
        return Explainer(self.build(as_network(network)), backend=self.backend, **options)

    def network(self, name: str) -> Network:
        """Return a network of the set; skip the test where the framework cannot have it."""
        if name in self.unsupported:
            pytest.skip(f"{self.backend} has no {name!r} network: {self.unsupported[name]}")
        return NETWORKS[name]()

    def feed(self, inputs: Mapping[str, NDArray[Any]]) -> Inputs:
        """Lay out inputs by name as the model takes them: one array, or a dict of several."""
        arrays = {name: self.layout(array) for name, array in inputs.items()}
        return arrays if len(arrays) > 1 else next(iter(arrays.values()))

    @staticmethod
    def close(actual: Any, expected: Any, tolerance: float = FLOAT32) -> None:
        """Assert closeness relative to the expected values' largest magnitude."""
        scale = float(np.abs(expected).max()) or 1.0
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)
