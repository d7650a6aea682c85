"""What accuracy hides: how often a network is right, and how often it looks at the object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gradcam_multi.demo.scenes import Scene
from gradcam_multi.explainer import Explainer

BATCH = 32


@dataclass(frozen=True)
class Figures:
    """Shares of scenes in [0, 1]: `accuracy`, and `peak_on_object`, the heatmap's peak (of the top
    class) inside of the object's mask: the pointing game (Zhang 2016, arXiv:1608.00507)."""

    accuracy: float
    peak_on_object: float


def as_inputs(scenes: Sequence[Scene]) -> np.ndarray:
    """Return scenes as (N, 3, H, W) float32 in [0, 1]: the preprocessing `unit`."""
    images = np.stack([scene.image for scene in scenes])
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def measure(
    explainer: Explainer,
    scenes: Sequence[Scene],
    *,
    arrange: Callable[[np.ndarray], np.ndarray] = lambda inputs: inputs,
    advance: Callable[[int], object] = lambda count: None,
) -> Figures:
    """Explain every scene's top class, and count.

    `arrange` turns (N, 3, H, W) inputs into the model's layout; `advance` is told how many scenes
    have been done since the last time.
    """
    right = hit = 0
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        explanation = explainer(arrange(as_inputs(part)))
        right += sum(c == scene.label for c, scene in zip(explanation.classes, part, strict=True))
        for scene, heatmap in zip(part, explanation.heatmap, strict=True):
            hit += bool(scene.mask.flat[heatmap.argmax()])
        advance(len(part))
    return Figures(right / len(scenes), hit / len(scenes))
