"""Plain inference and ours of one network under one adapter, ready to take turns."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
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


def module_call(module: Any) -> Callable[[np.ndarray], Any]:
    """Return plain inference of a module in PyTorch."""
    import torch

    def plain(x: np.ndarray) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return plain


def _onnx(program: Program, side: int) -> Opened:
    from networks_torch import TorchOps, onnx_network

    data = onnx_network(TorchOps(program), side)
    return Opened(data, session_call(data))


def session_call(data: bytes | str, provider: str = "CPUExecutionProvider") -> Callable[..., Any]:
    """Return plain inference by an ONNX Runtime session with its usual settings."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=[provider])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def _tensorflow(program: Program, side: int) -> Opened:
    from networks_keras import keras_program

    model = keras_program(program, side)
    return Opened(model, function_call(model), channels_last)


def function_call(model: Any) -> Callable[[np.ndarray], Any]:
    """Return plain inference of a Keras model, compiled as TensorFlow's users do."""
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False), autograph=False)
    return lambda x: function(tf.convert_to_tensor(x)).numpy()


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


OPEN: dict[str, Callable[[Program, int], Opened]] = {
    "torch": _torch, "onnx": _onnx, "tensorflow": _tensorflow,
}  # fmt: skip

PLAIN: dict[str, Callable[[Any], Callable[[np.ndarray], Any]]] = {
    "torch": module_call, "onnx": session_call, "tensorflow": function_call,
}  # fmt: skip
"""Plain inference of what our explainer opens."""

LAYOUT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "torch": lambda x: x, "onnx": lambda x: x, "tensorflow": channels_last,
}  # fmt: skip
