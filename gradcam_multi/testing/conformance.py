"""The ten points that every adapter must hold, run through the public interface.

An adapter's own tests derive a class::

    class TestMyAdapter(AdapterConformance):
        backend = "mine"                       # the entry point's name
        unsupported = {"nested": "mine has no modules"}

        def build(self, network): ...          # the described network in the framework
        def snapshot(self, model): ...         # all state that a call might touch
        def variants(self, network): ...       # frozen, half precision, callers' modes
        def ignoring_model(self): ...          # a model whose score ignores a layer

Needs pytest. Activations and gradients are compared with a float64 reference before resizing.
"""

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradcam_multi.cam import GRADIENT_METHODS
from gradcam_multi.errors import (
    InputError,
    LayerNotOnPathError,
    TargetCountError,
    UnknownClassError,
    UnknownLayerError,
)
from gradcam_multi.explainer import CamWarning, Explainer
from gradcam_multi.explanation import Explanation
from gradcam_multi.targets import ClassScore
from gradcam_multi.testing.blocks import BlocksConformance
from gradcam_multi.testing.inputs import InputsConformance
from gradcam_multi.testing.models import ModelsConformance
from gradcam_multi.testing.network import as_network
from gradcam_multi.testing.networks import NETWORKS
from gradcam_multi.testing.numbers import NumbersConformance
from gradcam_multi.testing.reference import Reference, probe_inputs, probe_network


class AdapterConformance(
    NumbersConformance, ModelsConformance, InputsConformance, BlocksConformance
):
    """Tests of one adapter; derive, and fill in what only the adapter's author can know."""

    def test_01_need_10_batches_are_right_for_every_item(self) -> None:
        explainer, inputs = self.explainer(probe_network()), self.layout(probe_inputs(5))
        whole = explainer(inputs, [0, 1, 2, 3, 4])
        for i in range(5):
            self.close(whole.cam[i], explainer(inputs[i : i + 1], i).cam[0])
        order = [3, 0, 4, 1, 2]
        self.close(explainer(inputs[order], order).cam, whole.cam[order])
        chunked = self.explainer(probe_network(), batch_size=2)(inputs, [0, 1, 2, 3, 4])
        self.close(chunked.cam, whole.cam)

    def test_02_need_22_the_model_is_left_as_found(self) -> None:
        model = self.build(as_network(probe_network()))
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
        network, inputs = as_network(probe_network()), probe_inputs()
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
    @pytest.mark.parametrize("method", GRADIENT_METHODS)
    def test_06_the_unit_of_the_score_does_not_matter(self, method: str, scale: float) -> None:
        inputs = self.layout(probe_inputs())
        expected = self.explainer(probe_network(), method=method)(inputs, 2)
        scaled = self.explainer(probe_network(scale=scale), method=method)(inputs, 2)
        # Heatmaps lie in [0, 1]; the scaled weights round differently in float32.
        np.testing.assert_allclose(scaled.heatmap, expected.heatmap, rtol=0, atol=1e-4)
        assert expected.heatmap.max() == 1

    def test_07_need_02_nothing_is_nan_and_each_item_has_a_status(self) -> None:
        inputs = probe_inputs(3)
        broken = inputs.copy()
        broken[1, 0, 3, 3] = np.nan
        with pytest.warns(CamWarning, match="nonfinite"):
            explanation = self.explainer(probe_network())(self.layout(broken), 2)
        assert explanation.status == ("ok", "nonfinite", "ok")
        self._finite(explanation)
        assert not explanation.cam[1].any()
        # Logits of a million: an exponential that is not taken of differences overflows.
        sure = self.explainer(probe_network(scale=1e6, softmax=True))(self.layout(inputs), 2)
        np.testing.assert_allclose(sure.outputs.sum(-1), 1, rtol=0, atol=1e-6)  # float32
        self._finite(sure)
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

    def test_the_reasons_for_what_is_unsupported_are_given(self) -> None:
        assert set(self.unsupported) <= set(NETWORKS)
        assert all(reason.strip() for reason in self.unsupported.values())

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

    def test_09_need_11_memory_is_flat_over_500_calls(self) -> None:
        explainer, inputs = self.explainer(probe_network()), self.layout(probe_inputs(16))
        for _ in range(100):
            explainer(inputs)
        gc.collect()
        before = _resident()
        for _ in range(400):
            explainer(inputs)
        gc.collect()
        growth = _resident() - before
        # One kept batch of activations of this network is 16 * 8 * 8 * 8 * 4 bytes, 400 of them
        # are 13 MB; allocators keep a few pages of their own.
        assert growth < 5e6
        assert growth < 0.02 * before

    def test_10_a_call_is_one_run_of_the_model(self) -> None:
        """No second forward pass: top classes are taken from the run that is explained."""
        explainer, inputs = self.explainer(probe_network()), self.layout(probe_inputs())
        explainer(inputs)
        runs = 0
        trace = explainer.model.trace

        class Counting:
            backend, inputs, outputs = self.backend, (), ()

            def trace(self, *arguments: Any, **options: Any) -> Any:
                nonlocal runs
                runs += 1
                return trace(*arguments, **options)

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
