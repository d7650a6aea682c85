"""The ten points that every adapter must hold, run through the public interface.

An adapter's own tests derive a class::

    class TestMyAdapter(AdapterConformance):
        backend = "mine"                       # the entry point's name

        def snapshot(self, model): ...         # all state that a call might touch
        def variants(self, network): ...       # frozen, half precision, callers' modes
        def ignoring_model(self): ...          # a model whose score ignores a layer

Needs pytest. Activations and gradients are compared with a float64 reference before resizing.
"""

import contextlib
import gc
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradcam_multi.cam import METHODS, raw_maps
from gradcam_multi.demo.networks import DemoNetwork
from gradcam_multi.errors import (
    InputError,
    LayerNotOnPathError,
    TargetCountError,
    UnknownClassError,
    UnknownLayerError,
)
from gradcam_multi.explainer import CamWarning, Explainer
from gradcam_multi.explanation import Explanation
from gradcam_multi.plugins import installed
from gradcam_multi.targets import ClassScore, Probability
from gradcam_multi.testing.reference import Reference, probe_inputs, probe_network

# A handful of float32 roundings through two small convolutions, relative to the largest value.
FLOAT32 = 2e-5
SPATIAL = ("conv1", "relu1", "pool1", "conv2", "relu2")


@dataclass(frozen=True)
class Variant:
    """A model in another state, the caller's mode around the call, and what it may cost in
    accuracy, relative to the map's largest value, with the reason.
    """

    model: Any
    tolerance: float
    reason: str
    mode: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext


class AdapterConformance:
    """Tests of one adapter; derive, and fill in what only the adapter's author can know."""

    backend: str

    # -- what an adapter's author provides ------------------------------------------------------

    def build(self, network: DemoNetwork) -> Any:
        """Build a described network in the adapter's framework."""
        return installed().build(network, self.backend)

    def layout(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Turn (N, C, H, W) inputs into the layout that the built model takes."""
        return inputs

    def layer(self, name: str) -> str:
        """Return what the adapter calls a layer of the described network."""
        return name

    def snapshot(self, model: Any) -> Any:
        """Return all state of a model that a call might touch, comparable by ``==``."""
        raise NotImplementedError("an adapter's tests must say what state its models have")

    def variants(self, network: DemoNetwork) -> Mapping[str, Variant]:
        """Return the network frozen, in lower precision, under the caller's modes, by name."""
        raise NotImplementedError("an adapter's tests must name the states a model can be in")

    def ignoring_model(self) -> tuple[Any, str, NDArray[Any]]:
        """Return a model, a layer of it that its output ignores, and inputs."""
        raise NotImplementedError("an adapter's tests must offer a model that ignores a layer")

    # -- helpers --------------------------------------------------------------------------------

    def explainer(self, network: DemoNetwork, **options: Any) -> Explainer:
        """Open a freshly built network with this adapter only."""
        return Explainer(self.build(network), backend=self.backend, **options)

    @staticmethod
    def close(actual: Any, expected: Any, tolerance: float = FLOAT32) -> None:
        """Assert closeness relative to the expected values' largest magnitude."""
        scale = float(np.abs(expected).max()) or 1.0
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)

    # -- numbers --------------------------------------------------------------------------------

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

    @pytest.mark.parametrize("method", METHODS)
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

    # -- the ten points -------------------------------------------------------------------------

    def test_01_a_batch_is_its_items(self) -> None:
        explainer, inputs = self.explainer(probe_network()), self.layout(probe_inputs(5))
        whole = explainer(inputs, [0, 1, 2, 3, 4])
        for i in range(5):
            self.close(whole.cam[i], explainer(inputs[i : i + 1], i).cam[0])
        order = [3, 0, 4, 1, 2]
        self.close(explainer(inputs[order], order).cam, whole.cam[order])
        chunked = self.explainer(probe_network(), batch_size=2)(inputs, [0, 1, 2, 3, 4])
        self.close(chunked.cam, whole.cam)

    def test_02_the_model_is_left_as_found(self) -> None:
        model = self.build(probe_network())
        inputs = self.layout(probe_inputs())
        before = self.snapshot(model)
        explainer = Explainer(model, backend=self.backend)
        explainer(inputs)
        assert self.snapshot(model) == before
        explainer.layers(inputs)
        assert self.snapshot(model) == before
        with pytest.raises(ZeroDivisionError):
            explainer(inputs, _Raising(0))
        assert self.snapshot(model) == before
        with pytest.raises(InputError):
            explainer(inputs[..., None])
        assert self.snapshot(model) == before

    def test_03_frozen_and_lower_precision_models_and_callers_modes(self) -> None:
        network, inputs = probe_network(), probe_inputs()
        expected = self.explainer(network)(self.layout(inputs), 2)
        variants = self.variants(network)
        assert variants, "no variant: name at least a frozen model"
        for name, variant in variants.items():
            explainer = Explainer(variant.model, backend=self.backend)
            with variant.mode():
                explanation = explainer(self.layout(inputs), 2)
            assert explanation.cam.dtype == np.float32, name
            self.close(explanation.cam, expected.cam, variant.tolerance)

    def test_04_threads_get_the_maps_of_a_serial_run(self) -> None:
        explainer = self.explainer(probe_network())
        batches = [self.layout(probe_inputs(3, seed=seed)) for seed in range(40)]
        serial = [explainer(batch, seed % 5).cam for seed, batch in enumerate(batches)]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(explainer, batches, [seed % 5 for seed in range(40)]))
        for expected, actual in zip(serial, parallel, strict=True):
            self.close(actual.cam, expected, 1e-6)  # the same kernels on the same shapes

    def test_05_what_was_captured_is_not_overwritten(self) -> None:
        """The network's ReLU works in place where the framework can; the layer is before it."""
        network, inputs = probe_network(), probe_inputs()
        expected = Reference(network, inputs).tensors["conv2"]
        assert (expected < 0).any()
        model = self.explainer(network).model
        with model.trace(self.layout(inputs), [self.layer("conv2")]) as trace:
            (output,) = trace.logits
            trace.vjp({output: np.ones_like(trace.logits[output])})
            self.close(trace.activations[0], expected)

    @pytest.mark.parametrize("scale", [1e-6, 1e6])
    @pytest.mark.parametrize("method", METHODS)
    def test_06_the_unit_of_the_score_does_not_matter(self, method: str, scale: float) -> None:
        inputs = self.layout(probe_inputs())
        expected = self.explainer(probe_network(), method=method)(inputs, 2)
        scaled = self.explainer(probe_network(scale=scale), method=method)(inputs, 2)
        # Heatmaps lie in [0, 1]; the scaled weights round differently in float32.
        np.testing.assert_allclose(scaled.heatmap, expected.heatmap, rtol=0, atol=1e-4)
        assert expected.heatmap.max() == 1

    def test_07_nothing_is_nan_and_each_item_has_a_status(self) -> None:
        inputs = probe_inputs(3)
        broken = inputs.copy()
        broken[1, 0, 3, 3] = np.nan
        with pytest.warns(CamWarning, match="nonfinite"):
            explanation = self.explainer(probe_network())(self.layout(broken), 2)
        assert explanation.status == ("ok", "nonfinite", "ok")
        self._finite(explanation)
        assert not explanation.cam[1].any()
        for dense, status in (("zero", "zero_gradient"), ("negative", "all_negative")):
            with pytest.warns(CamWarning, match=status):
                explanation = self.explainer(probe_network(dense=dense))(self.layout(inputs), 2)
            assert explanation.status == (status,) * 3
            self._finite(explanation)
            assert not explanation.heatmap.any()

    @staticmethod
    def _finite(explanation: Explanation) -> None:
        assert np.isfinite(explanation.cam).all()
        assert np.isfinite(explanation.heatmap).all()
        assert explanation.heatmap.min() >= 0
        assert explanation.heatmap.max() <= 1

    def test_08_what_is_asked_wrongly_is_named(self) -> None:
        explainer, inputs = self.explainer(probe_network()), self.layout(probe_inputs())
        with pytest.raises(TargetCountError, match="3 targets were given for 4 items"):
            explainer(inputs, [0, 1, 2])
        with pytest.raises(UnknownClassError, match=r"class 5000 .* 5 classes"):
            explainer(inputs, 5000)
        known = self.layer("relu2")
        with pytest.raises(UnknownLayerError, match=f"did you mean.*{known}") as raised:
            self.explainer(probe_network(), layer=known + "x")(inputs)
        assert "\n" not in str(raised.value)
        with pytest.raises(InputError) as wrong:
            explainer(self.layout(np.zeros((2, 7, 16, 16), np.float32)))
        assert "\n" not in str(wrong.value)
        assert "7" in str(wrong.value)

    def test_08_a_layer_that_the_score_ignores_is_named(self) -> None:
        model, layer, inputs = self.ignoring_model()
        with pytest.raises(LayerNotOnPathError, match=layer):
            Explainer(model, layer=layer, backend=self.backend)(inputs)

    def test_09_memory_is_flat(self) -> None:
        explainer, inputs = self.explainer(probe_network()), self.layout(probe_inputs(16))
        for _ in range(60):
            explainer(inputs)
        gc.collect()
        before = _resident()
        for _ in range(240):
            explainer(inputs)
        gc.collect()
        # One kept batch of activations of this network is 16 * 8 * 8 * 8 * 4 bytes, 240 of them
        # are 8 MB; allocators keep a few pages of their own.
        assert _resident() - before < 5e6

    def test_10_a_call_is_one_run_of_the_model(self) -> None:
        """No second forward pass: top classes are taken from the run that is explained."""
        explainer, inputs = self.explainer(probe_network()), self.layout(probe_inputs())
        explainer(inputs)
        runs = 0
        trace = explainer.model.trace

        class Counting:
            backend, inputs, outputs = self.backend, (), ()

            def trace(self, *arguments: Any) -> Any:
                nonlocal runs
                runs += 1
                return trace(*arguments)

            def layers(self, inputs: Any = None) -> Any:
                raise AssertionError("the layer was settled by the first call")

        explainer.model = Counting()
        explanations = explainer.several(inputs, [None, 1, 2])
        assert runs == 1
        assert len(explanations) == 3


@dataclass(frozen=True)
class _Raising(ClassScore):
    def score(self, logits: Any, activation: Any) -> Any:
        raise ZeroDivisionError


def _resident() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
