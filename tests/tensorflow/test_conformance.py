"""The ten points for the TensorFlow/Keras adapter."""

import pytest

keras = pytest.importorskip("keras", reason="Keras is not installed")
pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import numpy as np
import probe_keras

from gradcam_multi.testing import AdapterConformance, Variant, probe_inputs


class TestTensorFlow(AdapterConformance):
    backend = "tensorflow"

    def build(self, network):
        return probe_keras.build(network)

    def layer(self, name):
        return name.replace(".", "/")

    def layout(self, inputs):
        return np.moveaxis(inputs, 1, -1)

    def snapshot(self, model):
        return (
            [(layer.name, layer.trainable, id(layer)) for layer in model.layers],
            [(weight.path, weight.numpy().tolist()) for weight in model.weights],
            [len(layer._inbound_nodes) for layer in model.layers],
            [
                getattr(getattr(layer, "activation", None), "__name__", None)
                for layer in model.layers
            ],
            keras.Operation.__call__,
            keras.config.floatx(),
        )

    def variants(self, network):
        frozen = self.build(network)
        frozen.trainable = False
        return {
            "frozen": Variant(frozen, 1e-6, "the same numbers in the same order"),
            "float16": Variant(self._in(network, "float16"), 1e-2, "11 bits of precision"),
            "mixed_float16": Variant(
                self._in(network, "mixed_float16"), 1e-2, "11 bits of precision"
            ),
            "mixed_bfloat16": Variant(
                self._in(network, "mixed_bfloat16"), 6e-2, "8 bits of precision"
            ),
        }

    def _in(self, network, policy):
        model = self.build(network)

        def cast(layer):
            config = layer.get_config()
            config["dtype"] = policy
            return type(layer).from_config(config)

        other = keras.models.clone_model(model, clone_function=cast)
        other.set_weights(model.get_weights())
        assert other.layers[-1].compute_dtype in ("float16", "bfloat16")
        return other

    def ignoring_model(self):
        x = keras.Input((16, 16, 3))
        used = keras.layers.Conv2D(4, 3, name="used")(x)
        ignored = keras.layers.Conv2D(4, 3, name="ignored")(x)
        score = keras.layers.GlobalAveragePooling2D(name="score")(used)
        model = keras.Model(x, [score, ignored])
        return model, "ignored", self.layout(probe_inputs())
