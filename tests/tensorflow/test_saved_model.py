"""SavedModels: operations for layers, maps as those of the Keras model that was exported."""

import shutil
from pathlib import Path
from typing import Any

import architectures_keras as zoo
import numpy as np
import pytest
import tensorflow as tf

import gradcam_multi as gm
from gradcam_multi import errors
from gradcam_multi.plugins import installed

# The same kernels in the same order; graph optimisation may fuse others than in Keras' trace.
FLOAT32 = 2e-5
# Not `transfer`: Keras exports a random flip as one that flips.
BUILDS = ("small_resnet", "small_vgg", "small_densenet", "siamese", "conv1d", "conv3d",
          "channels_first", "recurrent", "vision_transformer")  # fmt: skip


def inputs_of(model: Any) -> Any:
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=(3, *t.shape[1:])).astype(np.float32) for t in model.inputs]
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def close(actual: Any, expected: Any) -> None:
    scale = float(np.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=FLOAT32 * scale)


@pytest.mark.parametrize("name", BUILDS)
def test_an_exported_model_has_the_maps_of_its_keras_model(name: str, tmp_path: Path) -> None:
    model = zoo.seeded(getattr(zoo, name)())
    inputs = inputs_of(model)
    model.export(tmp_path / "exported", verbose=False)
    names = [tensor.name for tensor in model.inputs]
    given = dict(zip(names, inputs, strict=True)) if len(names) > 1 else inputs
    keras_map = gm.explain(model, inputs)
    saved_map = gm.explain(tmp_path / "exported", given)
    close(saved_map.cam, keras_map.cam)
    close(saved_map.logits, keras_map.logits)
    assert saved_map.activation == keras_map.activation
    assert saved_map.size == keras_map.size
    assert keras_map.layer.split("/")[-1] in saved_map.layer


def test_a_saved_model_with_signature_by_tensorflow_itself(tmp_path: Path) -> None:
    model = zoo.small_mobilenet()
    tf.saved_model.save(model, tmp_path)
    x = inputs_of(model)
    for opened in (tmp_path, tmp_path / "saved_model.pb", tf.saved_model.load(tmp_path)):
        close(gm.explain(opened, x, 1).cam, gm.explain(model, x, 1).cam)


def test_layers_are_operations_by_their_names(tmp_path: Path) -> None:
    zoo.small_mobilenet().export(tmp_path, verbose=False)
    listed = gm.layers(tmp_path)
    names = [layer.name for layer in listed]
    assert names[-1] == "small_mobilenet_1/predictions_1/Softmax"
    assert "small_mobilenet_1/block_1_depthwise_1/depthwise" in names
    assert not [name for name in names if "PartitionedCall" in name]
    assert listed.default is not None
    assert listed.default.name == "small_mobilenet_1/out_relu_1/Relu6"
    opened = installed().open(tmp_path)
    assert opened.inputs[0].name == "image"
    assert (opened.inputs[0].shape, opened.inputs[0].layout) == ((None, 32, 32, 3), "channels_last")
    assert opened.outputs[0].activation == "softmax"


class Module(tf.Module):
    """No Keras, no signature."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal((3, 3, 3, 4), (1, 2)))
        self.head = tf.Variable(tf.random.stateless_normal((4, 5), (3, 4)))

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32)])
    def __call__(self, x):
        return self.scores(x)

    def scores(self, x):
        maps = tf.nn.relu(tf.nn.conv2d(x, self.kernel, 1, "SAME"))
        return tf.nn.sigmoid(tf.reduce_mean(maps, [1, 2]) @ self.head)


def test_a_module_without_keras(tmp_path: Path) -> None:
    module = Module()
    tf.saved_model.save(module, tmp_path)
    x = np.random.default_rng(5).normal(size=(2, 8, 8, 3)).astype(np.float32)
    explanation = gm.explain(tmp_path, x, 2)
    assert (explanation.layer, explanation.activation) == ("Relu", "sigmoid")
    maps = np.maximum(tf.nn.conv2d(x, module.kernel, 1, "SAME"), 0)
    # By hand: the mean hands each cell a 64th of the head's weights.
    close(explanation.cam, np.maximum(maps @ module.head.numpy()[:, 2] / 64, 0))


def test_variables_of_a_saved_model_are_live_and_threads_share_it(tmp_path: Path) -> None:
    tf.saved_model.save(Module(), tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    explainer, x = gm.Explainer(loaded), np.ones((1, 8, 8, 3), np.float32)
    before = explainer(x, 2)
    loaded.head.assign(2 * loaded.head)
    close(explainer(x, 2).cam, 2 * before.cam)


def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path: Path) -> None:
    tf.saved_model.save(tf.Module(), tmp_path / "empty")
    with pytest.raises(errors.UnsupportedError, match="no signature") as refusal:
        gm.Explainer(tmp_path / "empty")
    assert "\n" not in str(refusal.value)
    zoo.small_vgg().export(tmp_path / "cut", verbose=False)
    shutil.rmtree(tmp_path / "cut" / "variables")
    with pytest.raises(errors.ModelFileError, match="cannot be read as a SavedModel") as refusal:
        gm.Explainer(tmp_path / "cut")
    assert "\n" not in str(refusal.value)


def test_inputs_and_layers_of_a_saved_model_that_do_not_fit(tmp_path: Path) -> None:
    zoo.small_vgg().export(tmp_path, verbose=False)
    explainer = gm.Explainer(tmp_path, layer="conv9")
    with pytest.raises(errors.UnknownLayerError, match="has no layer 'conv9'"):
        explainer(np.ones((1, 32, 32, 3)))
    with pytest.raises(errors.InputError, match="channels last"):
        explainer(np.ones((1, 3, 32, 32)))


def test_a_batch_that_is_fixed(tmp_path: Path) -> None:
    module = Module()
    spec = tf.TensorSpec((2, 8, 8, 3), tf.float32)
    fixed = tf.function(module.scores, input_signature=[spec])
    tf.saved_model.save(module, tmp_path / "fixed", signatures=fixed)
    explainer = gm.Explainer(tmp_path / "fixed")
    x = np.random.default_rng(6).normal(size=(3, 8, 8, 3))
    assert explainer(x[:2]).cam.shape == (2, 8, 8)
    with pytest.raises(errors.InputError, match=r"batch of 3.*takes 2"):
        explainer(x)
