"""Files of older Keras, and files of weights."""

import json
import zipfile
from pathlib import Path
from typing import Any

import architectures_keras as zoo
import h5py
import keras
import numpy as np
import pytest

import gradcam_multi as gm
from gradcam_multi import errors
from gradcam_multi.plugins import installed

X = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)


def with_arguments(path: Path, kind: str, **arguments: Any) -> None:
    """Give the layers of a kind in an .h5 file arguments that its Keras still knew."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        changed = [part for part in config["config"]["layers"] if part["class_name"] == kind]
        assert changed
        for part in changed:
            part["config"].update(arguments)
        file.attrs["model_config"] = json.dumps(config)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("DepthwiseConv2D", {"groups": 1}),
        ("BatchNormalization", {"fused": True, "renorm": False, "virtual_batch_size": None}),
        ("Dense", {"implementation": 2, "input_dim": 64}),
    ],
)
def test_obsolete_arguments_that_change_nothing(
    kind: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    model, path = zoo.small_mobilenet(), tmp_path / "old.h5"
    model.save(path)
    with_arguments(path, kind, **arguments)
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"Unrecognized keyword|deserialized"):
        keras.saving.load_model(path)
    explanation = gm.explain(str(path), X, 1)
    np.testing.assert_array_equal(explanation.cam, gm.explain(model, X, 1).cam)
    assert path.read_bytes() == before


def test_obsolete_arguments_inside_a_nested_model(tmp_path: Path) -> None:
    path, backbone = tmp_path / "old.h5", zoo.siamese()
    backbone.save(path)
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        # The convolution stands in the backbone's own configuration, one level down.
        assert text.count('"class_name": "Conv2D"') == 1
        old = '"config": {"name": "conv",'
        file.attrs["model_config"] = text.replace(old, f'{old} "renorm": false,')
        assert text.count(old) == 1
    assert gm.layers(str(path)).default.name == "backbone/conv"


def test_an_obsolete_argument_that_changes_the_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    zoo.small_mobilenet().save(path)
    with_arguments(path, "DepthwiseConv2D", groups=2)
    with pytest.raises(errors.ModelFileError, match="'block_0_depthwise' has groups=2") as refusal:
        gm.Explainer(str(path))
    assert "\n" not in str(refusal.value)


def test_an_argument_that_nobody_knows_is_refused_with_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "odd.h5"
    zoo.small_mobilenet().save(path)
    with_arguments(path, "DepthwiseConv2D", wobble=3)
    with pytest.raises(errors.ModelFileError, match="wobble") as refusal:
        gm.Explainer(str(path))
    assert "\n" not in str(refusal.value)


def weights(model: Any) -> list[bytes]:
    return [weight.numpy().tobytes() for weight in model.weights]


@pytest.mark.parametrize("name", ["own.weights.h5", "model.h5", "model.keras", "renamed.h5"])
def test_weights_of_every_kind_of_file(name: str, tmp_path: Path) -> None:
    model, path = zoo.small_resnet(), tmp_path / name
    if name.startswith("model"):
        model.save(path)
    else:
        model.save_weights(tmp_path / "w.weights.h5")
        (tmp_path / "w.weights.h5").rename(path)
    other = zoo.seeded(zoo.small_resnet(), 1)
    assert weights(other) != weights(model)
    installed().load_weights(other, str(path))
    assert weights(other) == weights(model)


@pytest.mark.parametrize("name", ["own.weights.h5", "model.h5", "model.keras"])
@pytest.mark.parametrize("build", [zoo.small_resnet, lambda: zoo.small_vgg(classes=7)])
def test_weights_that_do_not_fit_change_nothing(name: str, build: Any, tmp_path: Path) -> None:
    model, path = build(), tmp_path / name
    (model.save if name.startswith("model") else model.save_weights)(path)
    other = zoo.small_vgg()
    before = weights(other)
    with pytest.raises(errors.ModelFileError, match="same architecture") as refusal:
        installed().load_weights(other, str(path))
    assert "\n" not in str(refusal.value)
    assert weights(other) == before


def test_weights_missing_and_left_over_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.weights.h5"
    zoo.small_vgg().save_weights(path)
    with h5py.File(path, "r+") as file:
        file.move("layers/dense", "layers/odd")
    with pytest.raises(errors.ModelFileError) as refusal:
        installed().load_weights(zoo.small_vgg(), str(path))
    assert "2 missing (layers/dense/vars/0, layers/dense/vars/1)" in str(refusal.value)
    assert "2 left over (layers/odd/vars/0, layers/odd/vars/1)" in str(refusal.value)


def test_damaged_and_foreign_files_of_weights(tmp_path: Path) -> None:
    model = zoo.small_vgg()
    before = weights(model)
    broken = {"text.h5": b"nothing", "empty.weights.h5": b"", "other.pth": b"", "zip.keras": b""}
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "zip.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    for name in (*broken, "absent.h5"):
        with pytest.raises(errors.ModelFileError, match=name) as refusal:
            installed().load_weights(model, str(tmp_path / name))
        assert "\n" not in str(refusal.value)
    with pytest.raises(errors.ModelFileError, match="built"):
        installed().load_weights(zoo.Subclassed(), str(tmp_path / "text.h5"))
    assert weights(model) == before
