"""A Keras model by the name of the function that builds it, on the command line."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from click.testing import CliRunner
from PIL import Image

from gradcam_multi.cli import main

SOURCE = """
import keras

def build():
    keras.utils.set_random_seed(0)
    image = keras.Input((32, 48, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="features")(image)
    return keras.Model(image, keras.layers.Dense(4)(keras.layers.GlobalMaxPooling2D()(x)))
"""


def test_a_function_that_builds_a_keras_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "keras_nets_for_tests.py").write_text(SOURCE)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 97, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    arguments = ["explain", "keras_nets_for_tests:build", "photo.png", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert (record["backend"], record["layer"]) == ("tensorflow", "features")
    result = CliRunner().invoke(main, ["layers", "keras_nets_for_tests:build"])
    assert "*  features" in result.stdout
    assert "made-up" not in result.stderr  # Keras can tell without a run
    del sys.modules["keras_nets_for_tests"]
