"""Claims, files, inputs, and every refusal in one line."""

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import architectures_keras as zoo
import keras
import numpy as np
import pytest
import tensorflow as tf
from gradcam_multi_tensorflow.model import KerasModel
from gradcam_multi_tensorflow.plugin import gradcam_multi_open

from gradcam_multi.errors import (
    GradcamError,
    InputError,
    LayerNotOnPathError,
    ModelFileError,
    TargetError,
    UnsupportedError,
)


def refused(kind: type[GradcamError], *words: str) -> Any:
    class Refusal:
        def __enter__(self) -> None:
            self.raises = pytest.raises(kind)
            self.info = self.raises.__enter__()

        def __exit__(self, *exception: Any) -> Any:
            swallowed = self.raises.__exit__(*exception)
            message = str(self.info.value)
            assert "\n" not in message
            for word in words:
                assert word in message
            return swallowed

    return Refusal()


@pytest.mark.parametrize("other", [3, "model.onnx", "a.pt", np.ones(2), object(), b"bytes"])
def test_other_models_are_left_to_others(other: Any) -> None:
    assert gradcam_multi_open(other) is None


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files(suffix: str, tmp_path: Path) -> None:
    model, x = zoo.small_resnet(), np.ones((1, 32, 32, 3), np.float32)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    opened = gradcam_multi_open(path if suffix == ".keras" else str(path))
    assert opened is not None
    with opened.trace(x, ["block3_out"]) as trace:
        np.testing.assert_allclose(trace.outputs["predictions"], model(x), rtol=1e-5)


@pytest.mark.parametrize("name", ["text.keras", "text.h5", "empty.keras", "zip.keras"])
def test_damaged_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("not a model" if name.startswith("text") else "")
    if name == "zip.keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{")
    with refused(ModelFileError, name, "model.save(path)"):
        gradcam_multi_open(str(path))


def test_absent_file() -> None:
    with refused(ModelFileError, "nowhere.keras", "no file"):
        gradcam_multi_open("nowhere.keras")


def test_a_file_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "cut.keras"
    zoo.small_vgg().save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with refused(ModelFileError, "cut.keras"):
        gradcam_multi_open(path)


def test_a_file_of_weights_only(tmp_path: Path) -> None:
    path = tmp_path / "only.weights.h5"
    zoo.small_vgg().save_weights(path)
    with refused(ModelFileError, "weights only", "load_weights"):
        gradcam_multi_open(path)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = tmp_path / "lambda.keras"
    inputs = keras.Input((4,))
    # Keras reads no default arguments of a stored function back: the place is a literal.
    code = eval(f"lambda t: (open({str(marker)!r}, 'w'), t)[1]")
    x = keras.layers.Lambda(code)(inputs)
    model = keras.Model(inputs, x)
    model.save(path)
    marker.unlink(missing_ok=True)
    with refused(ModelFileError, "Lambda", "trust=True", "safe_mode=False"):
        gradcam_multi_open(path)
    assert not marker.exists()
    opened = gradcam_multi_open(path, trust=True)
    with opened.trace(np.ones((1, 4)), []):
        pass
    assert marker.exists()


def test_a_class_that_keras_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "custom.keras"
    model = keras.Sequential([keras.Input((8, 8, 3)), zoo.Block(3)])
    model.save(path)
    with refused(ModelFileError, "Block", "custom_objects"):
        gradcam_multi_open(path)


def test_damaged_saved_model_folders(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"nothing")
    with refused(ModelFileError, "SavedModel", "model.export"):
        gradcam_multi_open(tmp_path)


def test_frozen_graphs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "frozen.pb"
    path.write_bytes(b"")
    with refused(UnsupportedError, "frozen graph", "SavedModel"):
        gradcam_multi_open(path)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.ones((2, 3, 32, 32)), ("(2, 3, 32, 32)", "(None, 32, 32, 3)", "channels last")),
        (np.ones((32, 32, 3)), ("(32, 32, 3)", "array[None]")),
        (np.ones((1, 20, 20, 3)), ("(1, 20, 20, 3)", "resize")),
        (np.ones((0, 32, 32, 3)), ("one item",)),
        (np.array(["a", "b"]), ("image",)),
        ({"picture": np.ones((1, 32, 32, 3))}, ("'picture'", "'image'")),
        ((np.ones((1, 32, 32, 3)),) * 2, ("2 inputs", "takes 1")),
        (None, ("image",)),
    ],
)
def test_inputs_that_do_not_fit(inputs: Any, words: tuple[str, ...]) -> None:
    opened = KerasModel(zoo.small_vgg())
    with refused(InputError, *words), opened.trace(inputs, ["conv4"]):
        pass


def test_batches_that_differ() -> None:
    opened = KerasModel(zoo.siamese())
    with (
        refused(InputError, "batch sizes"),
        opened.trace((np.ones((1, 16, 16, 3)), np.ones((2, 16, 16, 3))), ["joined"]),
    ):
        pass


def test_a_model_that_declares_nothing_refuses_in_one_line_too() -> None:
    opened = KerasModel(zoo.Subclassed())
    with refused(InputError, "subclassed", "(1, 16)"), opened.trace(np.ones((1, 16)), ["stem"]):
        pass


@pytest.mark.parametrize("dtype", ["float64", "uint8", "int64", "float16"])
@pytest.mark.parametrize("build", [zoo.small_vgg, zoo.Subclassed])
def test_inputs_of_other_dtypes(dtype: str, build: Any) -> None:
    x = np.arange(2 * 32 * 32 * 3).reshape(2, 32, 32, 3) % 100
    opened = KerasModel(build())
    name = "conv4" if build is zoo.small_vgg else "stem"
    with opened.trace(x.astype(np.float32), [name]) as trace:
        expected = trace.activations[0]
    with opened.trace(x.astype(dtype), [name]) as trace:
        np.testing.assert_array_equal(trace.activations[0], expected)


def test_forms_in_which_inputs_come() -> None:
    opened, x = KerasModel(zoo.small_vgg()), np.ones((1, 32, 32, 3), np.float32)
    forms = [x, (x,), {"image": x}, keras.ops.convert_to_tensor(x), x.tolist()]
    results = []
    for form in forms:
        with opened.trace(form, []) as trace:
            results.append(trace.logits["softmax"])
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_models_with_several_arguments() -> None:
    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head = keras.layers.Dense(2)

        def call(self, left: Any, right: Any, training: Any = None) -> Any:
            return self.head(left + 2 * right)

    class Packed(Two):
        def call(self, both: Any) -> Any:
            left, right = (both["left"], both["right"]) if isinstance(both, dict) else both
            return self.head(left + 2 * right)

    left, right = np.ones((3, 4), np.float32), np.full((3, 4), 2, np.float32)
    for model in (Two(), Packed()):
        opened = KerasModel(model)
        for form in ((left, right), {"left": left, "right": right}):
            with opened.trace(form, []) as trace:
                np.testing.assert_allclose(
                    next(iter(trace.outputs.values())), model.head(left + 2 * right), rtol=1e-5
                )


def test_an_output_that_does_not_depend_on_the_layer() -> None:
    opened, x = KerasModel(zoo.two_outputs()), np.ones((2, 16, 16, 3), np.float32)
    with opened.trace(x, ["side_conv"]) as trace:
        (gradient,) = trace.vjp({"side": np.ones((2, 2), np.float32)})
        assert np.abs(gradient).max() > 0
        with refused(LayerNotOnPathError, "'side_conv'", "'main'"):
            trace.vjp({"main": np.ones((2, 3), np.float32)})
        both = trace.vjp({"main": np.ones((2, 3)), "side": np.ones((2, 2))})
        np.testing.assert_array_equal(both[0], gradient)
        with refused(TargetError, "'mane'", "'main'"):
            trace.vjp({"mane": np.ones((2, 3), np.float32)})
        with refused(TargetError, "(2, 5)", "(2, 3)"):
            trace.vjp({"main": np.ones((2, 5), np.float32)})


def test_an_operation_without_a_gradient_is_named() -> None:
    class Ungraded(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return tf.raw_ops.AdjustContrastv2(images=x, contrast_factor=2.0)

    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 3, name="conv"), Ungraded(name="last")]
    )
    with KerasModel(model).trace(np.ones((1, 8, 8, 1)), ["conv"]) as trace:
        assert trace.activations[0].shape == (1, 1, 6, 6)
        with refused(UnsupportedError, "'last'", "AdjustContrastv2"):
            trace.vjp({"last": np.ones_like(trace.logits["last"])})


def test_the_entry_point_imports_no_framework() -> None:
    code = (
        "import sys\n"
        "import gradcam_multi_tensorflow.plugin as plugin\n"
        "assert plugin.gradcam_multi_open(3) is None\n"
        "assert plugin.gradcam_multi_open('model.onnx') is None\n"
        "print(sorted({'tensorflow', 'keras', 'h5py'} & set(sys.modules)))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_without_tensorflow_the_extra_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("")
    code = (
        "import sys\n"
        "sys.modules['tensorflow'] = None\n"
        "from gradcam_multi_tensorflow.plugin import gradcam_multi_open\n"
        f"try:\n    gradcam_multi_open({str(path)!r})\n"
        "except Exception as error:\n    print(type(error).__name__, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("MissingExtraError")
    assert 'pip install "gradcam-multi[tensorflow]"' in result.stdout


def test_a_call_that_reads_the_batch_size_is_traced_for_it() -> None:
    class Flat(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = keras.layers.Conv2D(2, 3, name="conv")

        def call(self, x: Any) -> Any:
            return tf.reshape(self.conv(x), (int(x.shape[0]), -1))

    opened = KerasModel(Flat())
    for count in (2, 3, 2):
        with opened.trace(np.ones((count, 8, 8, 3)), ["conv"]) as trace:
            (output,) = trace.logits
            (gradient,) = trace.vjp({output: np.ones((count, 72), np.float32)})
            np.testing.assert_array_equal(gradient, np.ones((count, 2, 6, 6)))
    assert len(opened._graphs) == 2


def test_a_call_that_decides_by_values_is_refused() -> None:
    class Deciding(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv = keras.layers.Conv2D(2, 3, name="conv")

        def call(self, x: Any) -> Any:
            x = self.conv(x)
            return x if tf.reduce_sum(x) > 0 else -x

    opened = KerasModel(Deciding())
    with refused(UnsupportedError, "keras.ops.cond"), opened.trace(np.ones((1, 8, 8, 3)), []):
        pass


def test_accelerated_is_what_has_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model = gradcam_multi_open(zoo.small_resnet())
    assert model.accelerated is False
    devices = [tf.config.LogicalDevice(f"/device:{kind}:0", kind) for kind in ("CPU", "GPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    assert model.accelerated is True
