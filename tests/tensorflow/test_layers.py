"""What is listed: names, edges, roles, axes, and the default layer that follows from them."""

from typing import Any

import architectures_keras as zoo
import keras
import numpy as np
import pytest
import tensorflow as tf
from gradcam_multi_tensorflow.model import KerasModel

from gradcam_multi.errors import InputError, LayerNotReachedError, UnknownLayerError
from gradcam_multi.layers import final_feature_map


def layers_by_name(model: Any, inputs: Any = None) -> dict[str, Any]:
    return {layer.name: layer for layer in KerasModel(model).layers(inputs)}


@pytest.mark.parametrize("family", zoo.IMAGE_NETWORKS)
def test_default_layer(family: str) -> None:
    build, expected = zoo.IMAGE_NETWORKS[family]
    assert final_feature_map(KerasModel(build()).layers()).name == expected


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (zoo.transfer, "features/base/out_relu"),
        (zoo.conv1d, "conv2"),
        (zoo.conv3d, "conv2"),
        (zoo.channels_first, "relu2"),
        (zoo.mixed_precision, "conv2"),
    ],
)
def test_default_layer_of_other_kinds(build: Any, expected: str) -> None:
    assert final_feature_map(KerasModel(build()).layers()).name == expected


def test_default_layer_is_made_by_a_raw_operation() -> None:
    default = final_feature_map(KerasModel(zoo.raw_operations()).layers())
    assert (default.kind, default.grid) == ("Relu", (14, 14))


def test_a_users_block_has_the_name_of_its_result() -> None:
    listed = layers_by_name(zoo.Subclassed(), np.ones((1, 16, 16, 3), np.float32))
    assert list(listed) == [
        "stem", "block0/conv", "block0/norm", "block0/AddV2", "block0",
        "block1/conv", "block1/norm", "block1/AddV2", "block1", "Mean", "head", "Softmax",
    ]  # fmt: skip
    assert listed["block0/AddV2"].inputs == ("stem", "block0/norm")
    assert listed["block1/conv"].inputs == ("block0",)
    assert listed["block1"].kind == "Relu"
    assert listed["Softmax"].output is not None
    assert final_feature_map(list(listed.values())).name == "block1"


def test_edges_of_a_residual_block() -> None:
    listed = layers_by_name(zoo.small_resnet())
    assert listed["block2_add"].inputs == ("block2_0_bn", "block2_3_bn")
    assert listed["block3_add"].inputs == ("block2_out", "block3_3_bn")
    assert listed["predictions"].output == "predictions"
    assert [layer.name for layer in listed.values() if layer.output] == ["predictions"]


def test_roles() -> None:
    roles = {name: layer.role for name, layer in layers_by_name(zoo.vision_transformer()).items()}
    assert roles["patches"] == "conv"
    assert roles["attention0"] == "attention"
    assert roles["mlp0a"] == roles["head"] == "linear"
    assert roles["gap"] == "pool"
    assert roles["norm0a"] == roles["add0a"] == roles["tokens"] == "other"


def test_an_operation_that_hands_its_input_on_is_an_alias() -> None:
    opened = KerasModel(zoo.small_vgg())
    assert "dropout" not in {layer.name for layer in opened.layers()}
    with opened.trace(np.ones((1, 32, 32, 3)), ["fc1", "dropout"]) as trace:
        np.testing.assert_array_equal(*trace.activations)


def test_a_model_inside_is_an_alias_of_its_last_layer() -> None:
    with KerasModel(zoo.transfer()).trace(
        np.ones((1, 32, 32, 3)), ["features/base", "features/base/out_relu", "features"]
    ) as trace:
        np.testing.assert_array_equal(*trace.activations[:2])
        assert trace.activations[2].shape == (1, 64)


def test_names_with_dots_are_kept_whole() -> None:
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stage.1.conv")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="gap.0")(x))
    with KerasModel(model).trace(np.ones((1, 8, 8, 3)), ["stage.1.conv"]) as trace:
        assert trace.activations[0].shape == (1, 4, 6, 6)


@pytest.mark.parametrize(
    ("build", "name", "axis", "grid"),
    [
        (zoo.small_resnet, "block3_add", 3, (4, 4)),
        (zoo.channels_first, "conv1", 1, (16, 12)),
        (zoo.channels_first, "relu2", 1, (7, 5)),
        (zoo.conv1d, "conv2", 2, (16,)),
        (zoo.conv3d, "conv2", 4, (4, 8, 6)),
        (zoo.vision_transformer, "tokens", 2, (16,)),
        (zoo.vision_transformer, "add1b", 2, (16,)),
        (zoo.small_resnet, "gap", None, ()),
    ],
)
def test_channel_axis(build: Any, name: str, axis: int | None, grid: tuple[int, ...]) -> None:
    layer = layers_by_name(build())[name]
    assert (layer.channel_axis, layer.grid) == (axis, grid)


def test_channel_axis_is_followed_through_a_transposition() -> None:
    inputs = keras.Input((3, 10, 12), name="chw")
    x = keras.layers.Permute((2, 3, 1), name="to_last")(inputs)
    x = keras.layers.Conv2D(5, 3, name="conv")(x)
    x = keras.layers.Permute((3, 1, 2), name="to_first")(x)
    x = keras.layers.ReLU(name="relu")(x)
    opened = KerasModel(keras.Model(inputs, keras.layers.Flatten(name="flat")(x)))
    axes = {layer.name: layer.channel_axis for layer in opened.layers()}
    assert axes == {"to_last": 3, "conv": 3, "to_first": 1, "relu": 1, "flat": None}
    assert opened.inputs[0].layout == "channels_first"
    assert opened.inputs[0].name == "chw"


def test_layouts_of_inputs() -> None:
    assert KerasModel(zoo.channels_first()).inputs[0].layout == "channels_first"
    assert KerasModel(zoo.small_vgg()).inputs[0].layout == "channels_last"
    assert [spec.layout for spec in KerasModel(zoo.siamese()).inputs] == ["channels_last"] * 2


def test_outputs_and_their_activations() -> None:
    specs = {spec.name: spec for spec in KerasModel(zoo.two_outputs()).outputs}
    assert {name: spec.activation for name, spec in specs.items()} == {
        "main": "softmax",
        "side": None,
    }
    assert specs["side"].shape == (None, 2)
    assert KerasModel(zoo.conv1d()).outputs[0].activation == "sigmoid"
    assert KerasModel(zoo.mixed_precision()).outputs[0].activation == "softmax"


def test_an_unbuilt_model_is_known_after_its_first_run() -> None:
    opened = KerasModel(zoo.Subclassed())
    assert opened.inputs == opened.outputs == ()
    with pytest.raises(InputError, match="give inputs"):
        opened.layers()
    assert len(opened.layers(np.ones((2, 16, 16, 3), np.float32))) == 12
    assert opened.inputs[0].shape == (None, 16, 16, 3)
    assert opened.outputs[0].activation == "softmax"
    assert len(opened.layers()) == 12


def test_unknown_and_unreached_layers_are_told_apart() -> None:
    opened, x = KerasModel(zoo.Subclassed()), np.ones((1, 16, 16, 3), np.float32)
    with pytest.raises(LayerNotReachedError, match="'unused'"), opened.trace(x, ["unused"]):
        pass
    with (
        pytest.raises(UnknownLayerError, match="did you mean 'block1/conv'"),
        opened.trace(x, ["block1.conv"]),
    ):
        pass


def test_tensorflow_operations_of_a_users_layer_are_listed() -> None:
    class Raw(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.kernel = self.add_weight(shape=(3, 3, shape[-1], 4), name="kernel")

        def call(self, x: Any) -> Any:
            return tf.nn.relu(tf.nn.conv2d(x, self.kernel, 1, "SAME"))

    model = keras.Sequential(
        [keras.Input((8, 8, 3)), Raw(name="raw"), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    listed = layers_by_name(model)
    assert listed["raw/Conv2D"].role == "conv"
    assert listed["raw"].inputs == ("raw/Conv2D",)
    assert final_feature_map(list(listed.values())).name == "raw"


def test_channel_axis_survives_a_normalisation_over_groups() -> None:
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(4, 3, activation=keras.layers.ReLU(), name="conv")(inputs)
    x = keras.layers.GroupNormalization(2, name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(name="gap")(x)
    listed = KerasModel(keras.Model(inputs, keras.layers.Dense(2)(x))).layers()
    assert {layer.name: layer.channel_axis for layer in listed}["norm"] == 3
    assert final_feature_map(listed).name == "norm"


def test_a_call_that_is_a_function_of_its_own_is_looked_into() -> None:
    class Compiled(zoo.Subclassed):
        @tf.function
        def call(self, x: Any) -> Any:
            return zoo.Subclassed.call(self, x)

    listed = layers_by_name(Compiled(), np.ones((1, 16, 16, 3), np.float32))
    assert final_feature_map(list(listed.values())).name == "block1"
