"""Plain inference as each framework's users write it; imports nothing else before it is asked."""

from collections.abc import Callable
from typing import Any

import numpy as np


def module_call(module: Any) -> Callable[[np.ndarray], Any]:
    """Return plain inference of a module in PyTorch."""
    import torch

    def plain(x: np.ndarray) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return plain


def session_call(data: bytes | str, provider: str = "CPUExecutionProvider") -> Callable[..., Any]:
    """Return plain inference by an ONNX Runtime session with its usual settings."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=[provider])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})


def function_call(model: Any) -> Callable[[np.ndarray], Any]:
    """Return plain inference of a Keras model, compiled as TensorFlow's users do."""
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False), autograph=False)
    return lambda x: function(tf.convert_to_tensor(x)).numpy()


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


PLAIN: dict[str, Callable[[Any], Callable[[np.ndarray], Any]]] = {
    "torch": module_call, "onnx": session_call, "tensorflow": function_call,
}  # fmt: skip
"""Plain inference of what our explainer opens."""

LAYOUT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "torch": lambda x: x, "onnx": lambda x: x, "tensorflow": channels_last,
}  # fmt: skip
