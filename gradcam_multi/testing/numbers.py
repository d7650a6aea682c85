"""Activations, gradients, replays and maps against the float64 reference, before resizing."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradcam_multi.cam import GRADIENT_METHODS, METHODS, raw_maps
from gradcam_multi.demo.networks import DemoNetwork
from gradcam_multi.targets import Probability
from gradcam_multi.testing.adapter import AdapterCase
from gradcam_multi.testing.reference import Reference, probe_inputs, probe_network

SPATIAL = ("conv1", "relu1", "pool1", "conv2", "relu2")


class NumbersConformance(AdapterCase):
    """What an adapter computes is what the reference computes."""

    @pytest.mark.parametrize("name", SPATIAL)
    @pytest.mark.parametrize("softmax", [False, True])
    def test_activations_and_gradients_are_those_of_the_reference(
        self, name: str, softmax: bool
    ) -> None:
        network, inputs = probe_network(softmax=softmax), probe_inputs()
        reference = Reference(network, inputs)
        model = self.explainer(network).model
        cotangent = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)
        with model.trace(self.layout(inputs), [self.layer(name)]) as trace:
            (output,) = trace.logits
            self.close(trace.logits[output].reshape(4, 5), reference.logits)
            last = network.layers[-1].name
            self.close(trace.outputs[output].reshape(4, 5), reference.tensors[last])
            self.close(trace.activations[0], reference.tensors[name])
            assert trace.activations[0].dtype == np.float32
            shape = trace.logits[output].shape
            (gradients,) = trace.vjp({output: cotangent.reshape(shape)})
            self.close(gradients, reference.vjp(cotangent, name))
            (again,) = trace.vjp({output: 2 * cotangent.reshape(shape)})
            self.close(again, 2 * gradients)  # linear, and callable more than once

    def test_two_layers_in_one_trace(self) -> None:
        network, inputs = probe_network(), probe_inputs()
        reference = Reference(network, inputs)
        names = ["relu2", "relu1"]  # not in execution order, on purpose
        cotangent = np.eye(5, dtype=np.float32)[[0, 1, 2, 3]]
        model = self.explainer(network).model
        with model.trace(self.layout(inputs), [self.layer(name) for name in names]) as trace:
            (output,) = trace.logits
            gradients = trace.vjp({output: cotangent.reshape(trace.logits[output].shape)})
            for name, activation, gradient in zip(names, trace.activations, gradients, strict=True):
                self.close(activation, reference.tensors[name])
                self.close(gradient, reference.vjp(cotangent, name))

    @pytest.mark.parametrize("name", ["relu1", "conv2", "relu2"])
    def test_replay_runs_on_from_the_layer(self, name: str) -> None:
        network, inputs = probe_network(), probe_inputs()
        reference = Reference(network, inputs)
        changed = reference.tensors[name].copy()
        changed[:, ::2] = 0
        model = self.explainer(network).model
        with model.trace(self.layout(inputs), [self.layer(name)]) as trace:
            (output,) = trace.logits
            same = trace.replay(self.layer(name), trace.activations[0])[output]
            self.close(same.reshape(4, 5), reference.logits)
            other = trace.replay(self.layer(name), changed.astype(np.float32))[output]
            self.close(other.reshape(4, 5), reference.replay(name, changed))

    @pytest.mark.parametrize("method", GRADIENT_METHODS)
    @pytest.mark.parametrize("target", [None, 3, Probability(1)], ids=["top", "class", "p"])
    def test_maps_are_those_of_the_reference(self, method: str, target: Any) -> None:
        network, inputs = probe_network(softmax=True), probe_inputs()
        explanation = self.explainer(network, method=method)(self.layout(inputs), target)
        cam, status = self._expected(network, inputs, method, target)
        self.close(explanation.cam, cam)
        assert explanation.status == status
        assert explanation.size == (16, 16)
        assert explanation.activation == "softmax"

    @staticmethod
    def _expected(
        network: DemoNetwork, inputs: NDArray[Any], method: str, target: Any
    ) -> tuple[Any, Any]:
        reference = Reference(network, inputs)
        p = reference.tensors["probabilities"]
        classes = reference.logits.argmax(1)
        if target is not None:
            classes[:] = getattr(target, "index", target)
        cotangent = np.eye(5)[classes]
        if isinstance(target, Probability):
            cotangent = p[:, classes[:1]] * (cotangent - p)
        gradients = reference.vjp(cotangent, "relu2").astype(np.float32)
        activations = reference.tensors["relu2"].astype(np.float32)
        return raw_maps(activations, gradients, METHODS[method])

    def test_the_default_layer_is_the_final_feature_map(self) -> None:
        explainer = self.explainer(probe_network(softmax=True))
        inputs = self.layout(probe_inputs(1))
        default = explainer.layers(inputs).default
        assert default is not None
        assert default.grid == (8, 8)
        assert explainer(inputs).layer == default.name == self.layer("relu2")
