"""Explains stored networks under one backend; run in a process of its own.

Arguments: `tensorflow`, `torch`, `jax` or `onnx`, the folder that `applications.py` filled, and
names. Writes NAME.BACKEND.npz: maps, gradients and activations at two layers. Under `torch` it
also writes NAME.onnx, by Keras' own export.
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
            export(path, inputs, Path(folder, f"{name}.onnx"))


def explained(
    path: str, inputs: np.ndarray, inner: str, activation: np.ndarray | None = None
) -> dict[str, Any]:
    """Return maps, activations and gradients at the default layer and at an inner one."""
    from gradcam_multi import Explainer

    results: dict[str, Any] = {}
    for place in ("default", "inner"):
        layer = None
        if place == "inner":
            layer = inner if activation is None else same_tensor(path, inputs, activation)
        for method in METHODS:
            explainer = Explainer(path, layer=layer, method=method)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a map of random weights may be empty
                explanation = explainer(inputs, list(TARGETS))
            results[f"{place}_{method}"] = explanation.cam
            results[f"{place}_layer"] = explanation.layer
        with explainer.model.trace(inputs, [explanation.layer]) as trace:
            ((output, logits),) = trace.logits.items()
            cotangent = np.eye(logits.shape[1], dtype=np.float32)[list(TARGETS)]
            results[f"{place}_activation"] = trace.activations[0]
            results[f"{place}_gradient"] = trace.vjp({output: cotangent})[0]
            results["logits"] = logits
    return results


def same_tensor(path: str, inputs: np.ndarray, activation: np.ndarray) -> str:
    """Name the layer of an export whose result is the given one: exporters rename."""
    from gradcam_multi import Explainer

    explainer = Explainer(path)
    shape = activation.shape[1:]
    names = [
        layer.name
        for layer in explainer.layers(inputs)
        if layer.grid and layer.shape and sorted(map(int, layer.shape[1:])) == sorted(shape)
    ]
    with explainer.model.trace(inputs, names) as trace:
        errors = [
            np.abs(found - activation).max() if found.shape == activation.shape else np.inf
            for found in trace.activations
        ]
    return names[int(np.argmin(errors))]


def export(path: str, inputs: np.ndarray, target: Path) -> None:
    """Write a stored network as ONNX by Keras' export under its torch backend."""
    import keras

    model = keras.saving.load_model(path, compile=False)
    model.eval()
    model(inputs)  # never called, it is refused
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.export(target, format="onnx", verbose=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
