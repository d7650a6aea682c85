"""The same network gets the same figures in every framework, and the same weights redrawn."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs PyTorch")
pytest.importorskip("tensorflow", reason="parity needs TensorFlow")
pytest.importorskip("onnxruntime", reason="parity needs ONNX Runtime")

from gradcam_multi import metrics
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes, load_network
from gradcam_multi.plugins import installed

# Areas and correlations of probabilities that agree to 1e-6; max-sensitivity divides differences.
TOLERANCE = 1e-4


def test_figures_agree():
    scenes = draw_scenes(4, seed=VALIDATION_SEED)
    masks = np.stack([scene.mask for scene in scenes])
    found = {}
    for backend in ("onnx", "torch", "tensorflow"):
        inputs = as_inputs(scenes)
        found[backend] = metrics.evaluate(
            installed().build(load_network("sound"), backend),
            np.moveaxis(inputs, 1, -1) if backend == "tensorflow" else inputs,
            methods=["gradcam", "layercam"],
            metrics=[n for n, m in metrics.METRICS.items() if "scipy" not in m.needs],
            masks=masks,
            options=metrics.Options(steps=10, subsets=30, samples=2),
        )
    for backend in ("torch", "tensorflow"):
        for method, figures in found["onnx"].values.items():
            for metric, values in figures.items():
                np.testing.assert_allclose(
                    found[backend].values[method][metric],
                    values,
                    atol=TOLERANCE,
                    err_msg=f"{backend} {method} {metric}",
                )


def test_cascades_agree():
    inputs = as_inputs(draw_scenes(4, seed=VALIDATION_SEED))
    found = [
        metrics.cascade(
            installed().build(load_network("sound"), backend), inputs, method="layercam"
        )
        for backend in ("onnx", "torch")
    ]
    assert found[0].layers == found[1].layers
    # Cells that differ by a rounding may change places: one pair of 144 moves the rank
    # correlation by 6 (1 + 1) / (144^3 - 144) = 4e-6.
    np.testing.assert_allclose(found[0].similarity, found[1].similarity, atol=1e-4)
