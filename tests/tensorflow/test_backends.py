"""Keras on torch and on JAX: the maps of the TensorFlow backend, each in a process of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import architectures_keras as zoo
import keras_maps
import numpy as np
import pytest

FILES = (
    "small_resnet", "small_vgg", "small_mobilenet", "small_densenet", "small_squeezenet",
    "transfer", "siamese", "conv1d", "conv3d", "channels_first", "mixed_precision",
    "raw_operations", "vision_transformer", "recurrent", "two_outputs",
)  # fmt: skip
# Three sets of float32 kernels on networks of a dozen layers; measured 2e-6.
FLOAT32 = 2e-5
# 11 bits of precision, and where each framework rounds; measured 9e-5.
FLOAT16 = 2e-3

needs = {
    name: pytest.mark.skipif(find_spec(name) is None, reason=f"Keras on {name} needs {name}")
    for name in ("torch", "jax")
}
BACKENDS = [pytest.param(name, marks=mark) for name, mark in needs.items()]


def on(backend: str, *command: str) -> "subprocess.CompletedProcess[str]":
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": paths}
    if backend == "jax":  # each program runs once or twice: compiling it would be most of the time
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    for name in FILES:
        zoo.seeded(getattr(zoo, name)()).save(path / f"{name}.keras")
    return path


@pytest.fixture(scope="module")
def by_tensorflow(folder: Path) -> dict[str, Any]:
    target = folder / "tensorflow.npz"
    keras_maps.main(folder, target)
    return dict(np.load(target))


@pytest.mark.parametrize("backend", BACKENDS)
def test_maps_are_those_of_the_tensorflow_backend(
    backend: str, folder: Path, by_tensorflow: dict[str, Any]
) -> None:
    target = folder / f"{backend}.npz"
    result = on(backend, keras_maps.__file__, str(folder), str(target))
    assert not result.returncode, result.stderr[-2000:]
    found = dict(np.load(target))
    assert set(found) == set(by_tensorflow)
    assert {f"{name}|cam" for name in FILES} < set(found)
    for key, expected in by_tensorflow.items():
        if key == "tail|said":
            # The multiplication after the block is an operator of the framework's own, which only
            # a traced graph shows: the block's result before it is taken, and has the same map.
            assert (expected[0], found[key][0]) == ("Mul", "block0")
            assert list(expected[1:]) == list(found[key][1:])
        elif key.endswith("|said"):
            assert list(found[key]) == list(expected), key
        else:
            tolerance = FLOAT16 if key.startswith("mixed") else FLOAT32
            assert found[key].shape == expected.shape
            scale = float(np.abs(expected).max())
            assert scale > 0, key
            np.testing.assert_allclose(
                found[key], expected, rtol=0, atol=tolerance * scale, err_msg=key
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_ten_points(backend: str) -> None:
    kit = Path(__file__).with_name("test_conformance.py")
    root = str(kit.parents[2])
    # Keras gives biases and blocks of attention on TensorFlow alone; all else must be there.
    result = on(backend, "-m", "pytest", "-q", "-x", "-k", "not inputs_and_biases and not blocks",
                "--rootdir", root, "-c",
                str(kit.parents[2] / "pyproject.toml"), str(kit),
                str(kit.with_name("test_guided.py")))  # fmt: skip
    assert not result.returncode, result.stdout[-2000:]
    assert " passed" in result.stdout
    assert "skipped" not in result.stdout


REFUSALS = """
import sys
sys.modules["tensorflow"] = None  # Keras imports it wherever it finds it
import keras, numpy as np
import gradcam_multi as gm
from gradcam_multi import errors
from gradcam_multi.plugins import installed

def refused(kind, words, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except kind as error:
        text = str(error)
        assert "\\n" not in text and all(word in text for word in words), text
    else:
        raise AssertionError(f"not refused: {words}")

folder = sys.argv[1]
x = np.ones((2, 32, 32, 3), np.float32)
opened = installed().open(f"{folder}/small_vgg.keras")
moved = np.moveaxis(x, -1, 1)
refused(errors.InputError, ["(2, 3, 32, 32)", "channels last"], opened.layers, moved)
with opened.trace(x, ["conv4"]) as trace:
    refused(errors.TargetError, ["'mane'"], trace.vjp, {"mane": np.ones((2, 10))})
    refused(errors.TargetError, ["(2, 5)", "(2, 10)"], trace.vjp, {"softmax": np.ones((2, 5))})
    refused(errors.InputError, ["(2, 3, 4, 4)"], trace.replay, "conv4", np.ones((2, 3, 4, 4)))
    more = trace.replay("conv4", np.concatenate([trace.activations[0]] * 2))["softmax"]
    np.testing.assert_allclose(more[2:], trace.logits["softmax"], rtol=1e-4, atol=1e-6)
refused(RuntimeError, ["with block"], trace.vjp, {"softmax": np.ones((2, 10))})
unknown = opened.trace(x, ["conv9"])
refused(errors.UnknownLayerError, ["'conv9'", "did you mean"], unknown.__enter__)
two = installed().open(f"{folder}/two_outputs.keras")
with two.trace(np.ones((2, 16, 16, 3), np.float32), ["side_conv"]) as trace:
    cotangent = {"main": np.ones((2, 3))}
    refused(errors.LayerNotOnPathError, ["'side_conv'", "'main'"], trace.vjp, cotangent)
inputs = keras.Input((4, 4, 3))
doubled = keras.layers.Conv2D(2, 3, name="conv")(keras.layers.Lambda(lambda t: t * 2)(inputs))
keras.Model(inputs, doubled).save(f"{folder}/lambda.h5")
refused(errors.ModelFileError, ["Lambda", "trust=True"], gm.Explainer, f"{folder}/lambda.h5")
assert gm.Explainer(f"{folder}/lambda.h5", trust=True).layers().default.name == "conv"
print("BACKEND", keras.backend.backend(), sys.modules["tensorflow"])
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_refusals_without_tensorflow(backend: str, folder: Path) -> None:
    result = on(backend, "-c", REFUSALS, str(folder))
    assert not result.returncode, result.stderr[-2000:]
    assert result.stdout.strip().endswith(f"BACKEND {backend} None")


@needs["jax"]  # Keras' NumPy backend imports it
def test_a_backend_without_gradients_is_refused(folder: Path) -> None:
    code = (
        "import sys, gradcam_multi as gm\nfrom gradcam_multi import errors\n"
        "try:\n    gm.Explainer(sys.argv[1])\n"
        "except errors.UnsupportedError as error:\n    print(error)\n"
    )
    result = on("numpy", "-c", code, str(folder / "small_vgg.keras"))
    assert "numpy backend" in result.stdout
    assert "KERAS_BACKEND=tensorflow" in result.stdout
