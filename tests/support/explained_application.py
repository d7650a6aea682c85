"""Explains stored networks under one backend; run in a process of its own.

Arguments: `tensorflow`, `torch`, `jax` or `onnx`, the folder that `applications.py` filled, and
names. Writes NAME.BACKEND.npz: maps, gradients and activations at two layers. Under `torch` it
also writes NAME.onnx.
"""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from applications import INNER

METHODS = ("gradcam", "layercam")
TARGETS = (0, 3, 7)


def main(backend: str, folder: str, *names: str) -> None:
    if backend == "jax":  # each program runs a few times only: compiling is most of the time
        os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    if backend != "onnx":
        os.environ["KERAS_BACKEND"] = backend  # before keras is imported
    for name in names:
        inputs, inner = np.load(Path(folder, f"{name}.npz"))["inputs"], INNER[name]
        if backend == "onnx":
            path = str(Path(folder, f"{name}.onnx"))
            reference = np.load(Path(folder, f"{name}.tensorflow.npz"))
            results = explained(path, inputs, inner, reference["inner_activation"])
        else:
            path = str(Path(folder, f"{name}.keras"))
            results = explained(path, inputs, inner)
        np.savez(Path(folder, f"{name}.{backend}.npz"), **results)
        if backend == "torch":
            export(path, Path(folder, f"{name}.onnx"))


def explained(
    path: str, inputs: np.ndarray, inner: str, activation: np.ndarray | None = None
) -> dict[str, Any]:
    """Return maps at the default layer, activations there and at an inner one, gradients at that.

    The inner layer is the named one, or the one whose result is the given activation.
    """
    from gradcam_multi import Explainer
    from gradcam_multi.metrics.evaluator import with_method

    explainer = Explainer(path)  # once: each opening reads and compiles the network again
    results: dict[str, Any] = {}
    for method in METHODS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a map of random weights may be empty
            explanation = with_method(explainer, method)(inputs, list(TARGETS))
        results[f"default_{method}"] = explanation.cam
    results["default_layer"] = explanation.layer
    layer = inner if activation is None else same_tensor(path, inputs, activation)
    with explainer.model.trace(inputs, [explanation.layer, layer]) as trace:
        ((output, logits),) = trace.logits.items()
        cotangent = np.eye(logits.shape[1], dtype=np.float32)[list(TARGETS)]
        results["default_activation"], results["inner_activation"] = trace.activations
        _, results["inner_gradient"] = trace.vjp({output: cotangent})
    return results


def same_tensor(path: str, inputs: np.ndarray, activation: np.ndarray) -> str:
    """Name the layer of an export whose result is the given one: exporters rename."""
    import onnx
    import onnxruntime

    from gradcam_multi import layers

    extents = sorted(activation.shape[1:])
    found = [layer for layer in layers(path) if layer.grid and layer.shape]
    # An exported reshape may leave extents that only the run tells.
    names = [x.name for x in found if None in x.shape[1:] or sorted(x.shape[1:]) == extents]
    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = session.run(names, {session.get_inputs()[0].name: inputs})
    last = np.moveaxis(activation, 1, -1)
    errors = [
        min(
            (np.abs(value - wanted).max() for wanted in (activation, last)
             if value.shape == wanted.shape), default=np.inf,
        )
        for value in values
    ]  # fmt: skip
    return names[int(np.argmin(errors))]


def export(path: str, target: Path) -> None:
    """Write a stored network as ONNX, as the adapter does."""
    import keras
    from gradcam_multi_tensorflow.under_torch import write

    write(keras.saving.load_model(path, compile=False), target)


if __name__ == "__main__":
    main(*sys.argv[1:])
