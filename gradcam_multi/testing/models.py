"""The points of the contract over the whole set of networks, each against the reference."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradcam_multi.cam import METHODS, raw_maps
from gradcam_multi.errors import LayerNotOnPathError, TargetError
from gradcam_multi.explainer import Explainer
from gradcam_multi.testing.adapter import FLOAT32, HALF, AdapterCase
from gradcam_multi.testing.network import Network
from gradcam_multi.testing.networks import NETWORKS, inputs_of
from gradcam_multi.testing.reference import Reference

every_network = pytest.mark.parametrize("name", NETWORKS)
TARGETS = [0, 1, 2, 3]


class ModelsConformance(AdapterCase):
    """What holds for one network holds for all kinds of them."""

    def opened(self, network: Network, **options: Any) -> Explainer:
        """Open a network of the set; the same explainer for all tests of a class."""
        key = (type(self), network.name, *sorted(options.items()))
        if key not in _OPENED:
            _OPENED[key] = self.explainer(network, **options)
        return _OPENED[key]

    @every_network
    def test_activations_logits_and_gradients(self, name: str) -> None:
        network = self.network(name)
        inputs, tolerance = inputs_of(network), _tolerance(network)
        reference = Reference(network, inputs)
        model = self.opened(network).model
        rng = np.random.default_rng(2)
        with model.trace(self.feed(inputs), [self.layer(p) for p in network.probes]) as trace:
            named = _named(network, list(trace.logits))
            cotangents = {}
            for output, called in named.items():
                self.close(trace.logits[called], reference.scores[output], tolerance)
                self.close(trace.outputs[called], reference.outputs[output], tolerance)
                assert trace.logits[called].dtype == trace.outputs[called].dtype == np.float32
                cotangents[output] = rng.normal(size=reference.scores[output].shape)
            gradients = trace.vjp(
                {named[output]: g.astype(np.float32) for output, g in cotangents.items()}
            )
            for probe, activation, gradient in zip(
                network.probes, trace.activations, gradients, strict=True
            ):
                assert activation.dtype == gradient.dtype == np.float32, probe
                own = reference.to_core(probe, reference.tensors[probe])
                self.close(activation, own, tolerance)
                expected = reference.to_core(probe, reference.vjp(cotangents, probe))
                self.close(gradient, expected, tolerance)

    @every_network
    def test_a_run_from_the_layer_on(self, name: str) -> None:
        network = self.network(name)
        inputs, tolerance = inputs_of(network), _tolerance(network)
        reference = Reference(network, inputs)
        probe = self.layer(network.probes[0])
        with self.opened(network).model.trace(self.feed(inputs), [probe]) as trace:
            changed = trace.activations[0].copy()
            changed[:, ::2] = 0
            replayed = trace.replay(probe, changed)
        own = reference.tensors[network.probes[0]].copy()
        own[(..., slice(None, None, 2)) if _tokens(network) else np.s_[:, ::2]] = 0
        first = next(iter(_named(network, list(replayed)).values()))
        self.close(replayed[first], reference.replay(network.probes[0], own), tolerance)

    @every_network
    def test_the_default_layer_by_value(self, name: str) -> None:
        network = self.network(name)
        inputs = inputs_of(network)
        reference, feed = Reference(network, inputs), self.feed(inputs)
        for output, default in network.defaults.items():
            explainer = self.opened(network, **_asked(network, output))
            chosen = explainer.layers(feed).default
            assert chosen is not None
            with explainer.model.trace(feed, [chosen.name]) as trace:
                expected = reference.to_core(default, reference.tensors[default])
                self.close(trace.activations[0], expected, _tolerance(network))

    @every_network
    def test_maps_of_the_default_layer(self, name: str) -> None:
        network = self.network(name)
        inputs = inputs_of(network)
        reference = Reference(network, inputs)
        for output, default in network.defaults.items():
            explainer = self.opened(network, **_asked(network, output))
            explanation = explainer(self.feed(inputs), TARGETS)
            activations, gradients = (
                folded(network, reference.to_core(default, tensor))
                for tensor in (
                    reference.tensors[default],
                    reference.vjp({output: np.eye(5)[:4]}, default),
                )
            )
            cam, status = raw_maps(activations, gradients, METHODS["gradcam"])
            assert explanation.cam.shape == cam.shape
            self.close(explanation.cam, cam, _tolerance(network))
            assert explanation.status == status
            assert explanation.size == next(iter(network.inputs.values()))[1:]

    @every_network
    def test_01_need_10_a_batch_is_its_items(self, name: str) -> None:
        network = self.network(name)
        inputs, layer = inputs_of(network), self.layer(network.probes[-1])
        order, model = [3, 0, 2, 1], self.opened(network).model
        cotangent = np.eye(5, dtype=np.float32)[TARGETS]

        def run(items: list[int]) -> tuple[Any, Any]:
            part = {key: array[items] for key, array in inputs.items()}
            with model.trace(self.feed(part), [layer]) as trace:
                output = next(iter(_named(network, list(trace.logits)).values()))
                return trace.activations[0], trace.vjp({output: cotangent[items]})[0]

        # Another batch size may take another kernel, which adds in another order.
        whole = run(TARGETS)
        for mine, permuted in zip(whole, run(order), strict=True):
            self.close(permuted, mine[order], _tolerance(network))
        for i in TARGETS:
            for mine, alone in zip(whole, run([i]), strict=True):
                self.close(alone[0], mine[i], _tolerance(network))

    @every_network
    def test_02_need_22_every_network_is_left_as_found(self, name: str) -> None:
        network = self.network(name)
        model, feed = self.build(network), self.feed(inputs_of(network))
        layer = self.layer(network.probes[0])
        before = self.snapshot(model)
        explainer = Explainer(model, backend=self.backend, layer=layer)
        first = _vjp(explainer, feed, layer)
        assert self.snapshot(model) == before
        with pytest.raises(ZeroDivisionError), explainer.model.trace(feed, [layer]):
            raise ZeroDivisionError
        assert self.snapshot(model) == before
        for mine, again in zip(first, _vjp(explainer, feed, layer), strict=True):
            self.close(again, mine, 1e-6)  # the same kernels on the same numbers

    @every_network
    def test_04_threads_get_what_a_serial_run_gets(self, name: str) -> None:
        network = self.network(name)
        explainer, layer = self.opened(network), self.layer(network.probes[-1])
        feeds = [self.feed(inputs_of(network, 2, seed=seed)) for seed in range(16)]
        serial = [_vjp(explainer, feed, layer) for feed in feeds]
        with ThreadPoolExecutor(8) as pool:
            parallel = list(pool.map(lambda feed: _vjp(explainer, feed, layer), feeds))
        for expected, actual in zip(serial, parallel, strict=True):
            for own, other in zip(expected, actual, strict=True):
                self.close(other, own, 1e-6)  # the same kernels on the same shapes

    def test_several_inputs_by_position_and_by_name(self) -> None:
        network = self.network("two inputs")
        inputs = inputs_of(network)
        named = self.feed(inputs)
        explainer = self.opened(network)
        by_name = explainer(named, TARGETS)
        self.close(explainer(tuple(named.values()), TARGETS).cam, by_name.cam, 1e-6)
        swapped = {**inputs, "right": inputs["right"][::-1]}
        other = explainer(self.feed(swapped), TARGETS)
        assert np.abs(other.cam - by_name.cam).max() > 0.01 * by_name.cam.max()

    def test_08_an_output_that_ignores_the_layer_is_named(self) -> None:
        network = self.network("dict output")
        explainer, feed = self.opened(network), self.feed(inputs_of(network))
        with explainer.model.trace(feed, [self.layer("relu2")]) as trace:
            assert list(trace.logits) == list(network.outputs)
            with pytest.raises(LayerNotOnPathError, match=self.layer("relu2")):
                trace.vjp({"side": np.ones((4, 5), np.float32)})
        with pytest.raises(TargetError, match=r"'sides' .*did you mean 'side'"):
            self.opened(network, output="sides")(feed)


_OPENED: dict[Any, Explainer] = {}


def _vjp(explainer: Explainer, feed: Any, layer: str) -> tuple[Any, ...]:
    """Logits, activations and the gradients of a class each."""
    with explainer.model.trace(feed, [layer]) as trace:
        logits = next(iter(trace.logits.values()))
        cotangent = np.eye(5, dtype=np.float32)[: len(logits)]
        (gradient,) = trace.vjp({next(iter(trace.logits)): cotangent})
        return logits, trace.activations[0], gradient


def _tolerance(network: Network) -> float:
    return HALF if network.dtype == "float16" else FLOAT32


def _tokens(network: Network) -> bool:
    return network.fold is not None


def _named(network: Network, names: list[str]) -> dict[str, str]:
    """Outputs of the description, and what the adapter calls them: the same where keyed."""
    return dict(zip(network.outputs, network.outputs if network.keyed else names, strict=True))


def _asked(network: Network, output: str) -> dict[str, str]:
    return {"output": output} if network.keyed else {}


def folded(network: Network, tensor: NDArray[Any]) -> NDArray[np.float32]:
    """Lay the tokens (N, C, T) of the grid out on it; a map as it is."""
    if network.fold is not None:
        prefix, grid = network.fold
        tensor = tensor[:, :, prefix:].reshape(*tensor.shape[:2], *grid)
    return tensor.astype(np.float32)
