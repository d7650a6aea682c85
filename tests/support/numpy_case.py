"""What the adapter without a framework provides for the conformance kit."""

import numpy as np
from numpy_adapter import NumpyModule

from gradcam_multi.testing import AdapterConformance, Variant, inputs_of
from gradcam_multi.testing.networks import dict_output


class NumpyCase(AdapterConformance):
    backend = "numpy"

    def build(self, network):
        return NumpyModule(network)

    def snapshot(self, model):
        weights = {name: array.tobytes() for name, array in model.network.weights.items()}
        return weights, model.training

    def variants(self, network):
        rounded = {n: w.astype(np.float16).astype(np.float32) for n, w in network.weights.items()}
        half = type(network)(**{**vars(network), "weights": rounded})
        float16 = type(network)(**{**vars(network), "dtype": "float16"})
        return {
            "rounded weights": Variant(half, 1e-2, "float16 weights have 11 bits"),
            "float16": Variant(float16, 1e-2, "weights and inputs of 11 bits"),
        }

    def ignoring_model(self):
        """A network of two heads of which only the early one is returned."""
        network = dict_output()
        side = {"outputs": {"side": "side"}, "defaults": {"side": "relu1"}}
        model = NumpyModule(type(network)(**{**vars(network), **side}))
        return model, "relu2", inputs_of(network)["image"]
