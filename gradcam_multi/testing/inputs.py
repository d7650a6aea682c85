"""Gradients with respect to inputs, and ReLU's guided rule, each against the reference."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gradcam_multi.cam.full_gradients import item_sums
from gradcam_multi.contributions import full_gradients
from gradcam_multi.errors import (
    LayerNotOnPathError,
    MethodError,
    TargetError,
    UnknownLayerError,
    UnsupportedError,
)
from gradcam_multi.explainer import Explainer
from gradcam_multi.image_input import ImageInput
from gradcam_multi.spec import Biased, InputName, Model, ReluRule
from gradcam_multi.testing.adapter import FLOAT32, HALF, AdapterCase
from gradcam_multi.testing.network import Network
from gradcam_multi.testing.networks import (
    NETWORKS,
    inputs_of,
    partial_output,
    rounded,
    without_relu,
)
from gradcam_multi.testing.reference import Reference

# Further ranks and dtypes are nothing to the rule; each network costs a compilation on JAX.
GUIDED = ("conv", "residual", "nested", "token", "fp16")
BIASED = ("conv", "residual", "1-D", "3-D", "two inputs", "dict output")
RULES: tuple[ReluRule, ...] = ("plain", "guided")


class InputsConformance(AdapterCase):
    """An input is traced by its name, and ReLU's rule is that of one trace alone."""

    @pytest.mark.parametrize(
        ("name", "relu"),
        [*((name, "plain") for name in NETWORKS), *((name, "guided") for name in GUIDED)],
    )
    def test_gradients_of_the_inputs(self, name: str, relu: ReluRule) -> None:
        self.guidable(relu)
        network = self.network(name)
        inputs = inputs_of(network)
        tolerance = HALF if network.dtype == "float16" else FLOAT32
        reference, feed, probe = Reference(network, inputs), self.feed(inputs), network.probes[-1]
        model = _model(self, network)
        model.layers(feed)
        called = list(self.names(model, network).values())
        with model.trace(feed, [*called, self.layer(probe)], relu=relu) as trace:
            first, output = next(iter(trace.logits)), next(iter(network.outputs))
            self.close(trace.logits[first], reference.logits, tolerance)
            cotangent = np.random.default_rng(3).normal(size=reference.logits.shape)
            gradients = trace.vjp({first: cotangent.astype(np.float32)})
            kept = trace.activations
        for key, own, gradient in zip(network.inputs, kept, gradients, strict=False):
            given = self.layout(inputs[key])
            assert own.dtype == gradient.dtype == np.float32, key
            assert own.shape == gradient.shape == given.shape, key
            self.close(own, given.astype(network.dtype), 1e-7)  # handed through, not computed
            expected = reference.vjp({output: cotangent}, key, relu)
            self.close(gradient, self.layout(expected), tolerance)
            if relu == "guided":  # and the rule makes a difference for this network
                plain = reference.vjp({output: cotangent}, key)
                assert np.abs(plain - expected).max() > 0.1 * np.abs(plain).max()
        expected = reference.to_core(probe, reference.vjp({output: cotangent}, probe, relu))
        self.close(gradients[-1], expected, tolerance)

    def test_03_gradients_of_the_input_in_every_state(self) -> None:
        network = rounded()
        drawn = np.random.default_rng(1).integers(0, 4, (4, 3, 8, 8))
        inputs = {"image": drawn.astype(np.float32)}
        feed, reference = self.feed(inputs), Reference(network, inputs)
        cotangent = np.eye(5)[[0, 1, 2, 3]]
        for name, variant in self.variants(network).items():
            model = Explainer(variant.model, backend=self.backend).model
            for relu in RULES[: 1 if self.unguided else 2]:
                with variant.mode():
                    model.layers(feed)
                    (called,) = self.names(model, network).values()
                    with model.trace(feed, [called], relu=relu) as trace:
                        output, logits = next(iter(trace.logits.items()))
                        given = cotangent.reshape(logits.shape).astype(np.float32)
                        (gradient,) = trace.vjp({output: given})
                assert gradient.dtype == np.float32, name
                expected = self.layout(reference.vjp(cotangent, "image", relu))
                self.close(gradient, expected, variant.tolerance)

    @pytest.mark.parametrize("name", BIASED)
    def test_inputs_and_biases_make_up_the_score(self, name: str) -> None:
        """Networks linear but for ReLU and maxima: input and biases times their gradients."""
        network = self.network(name)
        inputs = inputs_of(network)
        feed, model = self.feed(inputs), _model(self, network)
        if not isinstance(model, Biased):
            pytest.skip(f"{self.backend} gives no biases")
        model.layers(feed)
        cotangent, output = np.eye(5, dtype=np.float32)[:4], model.outputs[0].name
        image = ImageInput(feed, model.inputs, len(next(iter(network.inputs.values()))) - 1)
        found = full_gradients(model, feed, image, output, lambda trace: {output: cotangent})
        expected = (cotangent * Reference(network, inputs).logits).sum(1)
        given = item_sums(found.image) + found.others
        parts = [*map(item_sums, found.layers)]
        # Each sum is of hundreds of rounded products, the largest of a few times the score.
        self.close(given + sum(parts), expected, 5 * FLOAT32)
        # Without any one layer's biases the score is another.
        assert min(np.abs(part).max() for part in parts) > 50 * FLOAT32 * np.abs(expected).max()

    def test_02_the_rule_is_gone_after_its_trace(self) -> None:
        self.guidable("guided")
        network = self.network("conv")
        inputs = inputs_of(network)
        feed, built = self.feed(inputs), self.build(network)
        before = self.snapshot(built)
        model = Explainer(built, backend=self.backend).model
        model.layers(feed)
        names = list(self.names(model, network).values())
        with pytest.raises(ZeroDivisionError), model.trace(feed, names, relu="guided"):
            raise ZeroDivisionError
        assert self.snapshot(built) == before
        expected = _gradient(model, feed, names[0], "guided")
        assert self.snapshot(built) == before
        plain = _gradient(model, feed, names[0], "plain")
        own = Reference(network, inputs).vjp(np.eye(5)[:4], next(iter(network.inputs)))
        self.close(plain, self.layout(own))
        self.close(_gradient(model, feed, names[0], "guided"), expected, 1e-6)  # as before

    def test_04_threads_keep_their_rules(self) -> None:
        """Half of eight threads are guided; none of the others sees it."""
        self.guidable("guided")
        network = self.network("residual")
        feeds = [self.feed(inputs_of(network, 2, seed=seed)) for seed in range(24)]
        model = _model(self, network)
        model.layers(feeds[0])
        (name,) = self.names(model, network).values()
        jobs = [(model, feed, name, RULES[place % 2]) for place, feed in enumerate(feeds)]
        serial = [_gradient(*job) for job in jobs]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(lambda job: _gradient(*job), jobs))
        for expected, actual in zip(serial, parallel, strict=True):
            self.close(actual, expected, 1e-6)  # the same kernels on the same shapes

    def test_08_an_output_that_ignores_the_input_is_named(self) -> None:
        network = partial_output()
        inputs = inputs_of(network)
        feed, model = self.feed(inputs), _model(self, network)
        model.layers(feed)
        called = self.names(model, network)
        cotangent = np.eye(5, dtype=np.float32)[:4]
        with model.trace(feed, [called["left"]]) as trace:
            (gradient,) = trace.vjp({"side": cotangent})
        expected = Reference(network, inputs).vjp({"side": cotangent}, "left")
        self.close(gradient, self.layout(expected))
        with (
            model.trace(feed, [called["right"]]) as trace,
            pytest.raises(LayerNotOnPathError, match="right"),
        ):
            trace.vjp({"side": cotangent})

    def test_08_what_is_asked_wrongly_of_the_way_back_is_named(self) -> None:
        network = partial_output()
        feed, model = self.feed(inputs_of(network)), _model(self, network)
        model.layers(feed)
        called = self.names(model, network)["left"]
        with pytest.raises(MethodError, match=r"'guide'.*did you mean 'guided'") as rule:
            _entered(model, feed, [called], "guide")
        with pytest.raises(UnknownLayerError, match=f"{called}x") as unknown:
            _entered(model, feed, [InputName(f"{called}x")])
        errors = [rule, unknown]
        if not self.unguided:
            cotangent = np.ones((4, 5), np.float32)
            with model.trace(feed, [InputName(called)], relu="guided") as trace:
                with pytest.raises(TargetError, match="one output") as several:
                    trace.vjp({"logits": cotangent, "side": cotangent})
            errors.append(several)
        assert not any("\n" in str(error.value) for error in errors)

    def test_08_the_guided_rule_needs_a_relu(self) -> None:
        network = without_relu()
        feed, model = self.feed(inputs_of(network)), _model(self, network)
        model.layers(feed)
        names = list(self.names(model, network).values())
        with pytest.raises(UnsupportedError, match="guided") as refused:
            _entered(model, feed, names, "guided")
        assert "\n" not in str(refused.value)
        assert self.unguided or "ReLU" in str(refused.value)

    def guidable(self, relu: ReluRule) -> None:
        """Skip a test of the guided rule where the framework cannot have it, if it says so."""
        if relu == "guided" and self.unguided:
            network = self.network("conv")
            with pytest.raises(UnsupportedError, match="guided"):
                _entered(_model(self, network), self.feed(inputs_of(network)), [], relu)
            pytest.skip(f"{self.backend} has no guided rule: {self.unguided}")

    @staticmethod
    def names(model: Model, network: Network) -> dict[str, str]:
        """Return what an opened model calls the described inputs, by their names there."""
        given = [spec.name for spec in model.inputs]
        same = set(given) >= set(network.inputs)
        return dict(zip(network.inputs, network.inputs if same else given, strict=True))


_MODELS: dict[Any, Model] = {}


def _model(case: AdapterCase, network: Network) -> Model:
    """Open a network, once for all tests of a class."""
    key = (type(case), network.name)
    if key not in _MODELS:
        _MODELS[key] = case.explainer(network).model
    return _MODELS[key]


def _gradient(model: Model, feed: Any, name: str, relu: ReluRule) -> Any:
    """The gradient of a class each with respect to an input."""
    with model.trace(feed, [name], relu=relu) as trace:
        output, logits = next(iter(trace.logits.items()))
        (gradient,) = trace.vjp({output: np.eye(5, dtype=np.float32)[: len(logits)]})
        return gradient


def _entered(model: Model, feed: Any, names: list[str], relu: Any = "plain") -> None:
    with model.trace(feed, names, relu=relu):
        pass
