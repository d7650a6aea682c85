"""The default layer of a model and of its export: activations, gradients and maps."""

from typing import Any

import numpy as np

import gradcam_multi as gm

SAME = 1e-4
"""Of the largest activation: float32 sums in another order, not another tensor."""

MAPS = 1e-3
"""Of the largest gradient, and of the map's: the same noise, through differences of large terms."""


def check(native: Any, data: bytes, x: np.ndarray) -> None:
    """Assert that both choose one tensor by default, with equal gradients and equal maps."""
    explainers = gm.Explainer(native), gm.Explainer(data)
    names, activations, gradients, maps = [], [], [], []
    for explainer in explainers:
        explainer.layers(x)
        # Outputs are named differently, and listed in the order of execution.
        explainer.output = explainer.model.outputs[0].name
        default = explainer.layers(x).default
        assert default is not None
        names.append(default.name)
        with explainer.traced(x) as trace:
            activations.append(trace.activations[0])
            scores = trace.logits[explainer.output]
            hot, chosen = np.zeros_like(scores), min(3, scores.shape[1] - 1)
            hot[:, chosen] = 1  # one class; of a map of classes, all of its cells
            gradients.append(trace.vjp({explainer.output: hot})[0])
        if scores.ndim == 2:
            maps.append(explainer(x, chosen).cam)
    told = f"{names[0]} {activations[0].shape} and {names[1]} {activations[1].shape}"
    assert activations[0].shape == activations[1].shape, told
    assert apart(*activations) <= SAME, told
    assert apart(*gradients) <= MAPS, told
    if maps:
        assert apart(*maps) <= MAPS, told


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference, of the largest value; 0 where both are zero."""
    return float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-30))
