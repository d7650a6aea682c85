"""Eight published networks, full width, under Keras on TensorFlow, on PyTorch, on JAX, and ONNX.

One file each, with equal weights; one process for each backend.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from applications import SIDES
from explained_application import METHODS

for name in ("tensorflow", "keras", "torch", "jax", "onnx", "onnxruntime"):
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed; tox -e parity installs all", allow_module_level=True)

SUPPORT = Path(__file__).parents[1] / "support"
BACKENDS = ("tensorflow", "torch", "jax", "onnx")
OTHERS = BACKENDS[1:]

MAP = 1e-3
"""Of the map's maximum, at the final feature map. Behind it there are at most a pooling and a dense
layer, but the activations themselves have gone through up to 200 layers of float32, whose kernels
sum in different orders: 1.8e-4 is measured (InceptionV3), 2e-6 where there is no such depth."""

GRADIENT_L2 = 5e-2
"""Of the gradient's length, at an inner layer. A ReLU behind it whose argument is within float32
noise of zero lets a gradient through under one backend and not under the other: single cells differ
by their whole value, which no bound on the largest difference survives, but few do. Most networks
measure 2e-6 to 7e-3, ResNet50 1.8e-2 and InceptionV3 3.3e-2, between any two of the four. A wrong
rule is off by the order of one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("applications")
    run("applications.py", folder, *SIDES)
    for backend in BACKENDS:  # PyTorch before ONNX, which reads what it exports
        run("explained_application.py", backend, folder, *SIDES)
    return folder


def run(program, *arguments):
    command = [sys.executable, str(SUPPORT / program), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{program} {arguments[0]}: {result.stderr[-2000:]}"


@pytest.fixture(scope="module", params=SIDES)
def results(request, folder):
    return {
        backend: dict(np.load(folder / f"{request.param}.{backend}.npz")) for backend in BACKENDS
    }


def worst(actual, expected):
    """Largest difference of each item, relative to the item's largest value."""
    axes = tuple(range(1, expected.ndim))
    scale = np.abs(expected).max(axes)
    return np.abs(actual - expected).max(axes) / scale


@pytest.mark.parametrize("other", OTHERS)
def test_the_default_layer_is_the_same_tensor(results, other):
    expected, actual = results["tensorflow"], results[other]
    if other != "onnx":
        assert actual["default_layer"] == expected["default_layer"]
    assert actual["default_activation"].shape == expected["default_activation"].shape
    assert worst(actual["default_activation"], expected["default_activation"]).max() <= MAP


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("other", OTHERS)
def test_maps_at_the_default_layer_agree(results, other, method):
    expected = results["tensorflow"][f"default_{method}"]
    alive = expected.max((1, 2)) > 0
    assert alive.any(), "no item has a map to compare"
    assert worst(results[other][f"default_{method}"][alive], expected[alive]).max() <= MAP
    # An item without evidence has none under any backend.
    np.testing.assert_allclose(results[other][f"default_{method}"][~alive], 0, atol=1e-6)


@pytest.mark.parametrize("other", OTHERS)
def test_gradients_at_an_inner_layer_agree(results, other):
    expected, actual = results["tensorflow"], results[other]
    assert worst(actual["inner_activation"], expected["inner_activation"]).max() <= MAP
    for mine, theirs in zip(actual["inner_gradient"], expected["inner_gradient"], strict=True):
        assert np.linalg.norm(mine - theirs) <= GRADIENT_L2 * np.linalg.norm(theirs)
        assert np.linalg.norm(theirs) > 0
