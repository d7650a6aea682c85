"""Plain inference and ours of one network under one adapter, ready to take turns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from inference import channels_last, function_call, module_call, session_call
from networks import SIDE, Program, program_of

from gradcam_multi import Explainer

MODULES = {"torch": "torch", "onnx": "onnxruntime", "tensorflow": "tensorflow"}
FRAMEWORKS = tuple(MODULES)


@dataclass(frozen=True)
class Opened:
    """A network: what our explainer opens, plain inference of a batch, the batch's layout."""

    model: Any
    plain: Callable[[np.ndarray], Any]
    layout: Callable[[np.ndarray], np.ndarray] = lambda x: x

    def ours(
        self, x: np.ndarray, method: str = "gradcam", target: Any = 0, **settings: Any
    ) -> Callable[[], Any]:
        """Return a call that explains a batch up to the heatmaps on its pictures."""
        explain = self.explained(x, method, target, **settings)
        return lambda: explain().heatmap

    def explained(
        self, x: np.ndarray, method: str = "gradcam", target: Any = 0, **settings: Any
    ) -> Callable[[], Any]:
        """Return a call that explains a batch by an explainer of its own."""
        explainer = Explainer(self.model, method=method, **settings)
        return lambda: explainer(x, target)


def need(framework: str) -> None:
    """Skip where the framework is not installed; ONNX files of the networks are PyTorch's."""
    missing = [
        name for name in (MODULES[framework], *WRITERS.get(framework, ())) if not find_spec(name)
    ]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


WRITERS = {"onnx": ("onnx", "torch")}


@cache
def opened(framework: str, name: str) -> Opened:
    """Return a published network, built once in a process."""
    return open_program(framework, program_of(name))


def open_program(framework: str, program: Program, side: int = SIDE) -> Opened:
    need(framework)
    return OPEN[framework](program, side)


def _torch(program: Program, side: int) -> Opened:
    from networks_torch import TorchOps

    module = TorchOps(program)
    return Opened(module, module_call(module))


def _onnx(program: Program, side: int) -> Opened:
    from networks_torch import TorchOps, onnx_network

    data = onnx_network(TorchOps(program), side)
    return Opened(data, session_call(data))


def _tensorflow(program: Program, side: int) -> Opened:
    from networks_keras import keras_program

    model = keras_program(program, side)
    return Opened(model, function_call(model), channels_last)


OPEN: dict[str, Callable[[Program, int], Opened]] = {
    "torch": _torch, "onnx": _onnx, "tensorflow": _tensorflow,
}  # fmt: skip
