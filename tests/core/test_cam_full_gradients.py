"""FullGrad against loops, and what it is complete for."""

import numpy as np
import pytest
from full_gradient_references import OF_BIASES, slow_contributions
from numpy_adapter import NumpyModel, NumpyTrace

import gradcam_multi as gm
from gradcam_multi.contributions import full_gradients
from gradcam_multi.image_input import ImageInput
from gradcam_multi.testing import NETWORKS, Reference, inputs_of, probe_inputs, probe_network

LINEAR = [name for name in NETWORKS if name != "token"]
# The adapter rounds gradients to float32; a channel's scaling divides by a spread that may be a
# tenth of its values.
TOLERANCE = 1e-5


def image_of(network):
    return next(iter(network.inputs))


def alone(inputs, i):
    return {name: array[i : i + 1] for name, array in inputs.items()}


@pytest.mark.parametrize("method", OF_BIASES)
@pytest.mark.parametrize("name", LINEAR)
def test_every_kind_of_network(name, method):
    network = NETWORKS[name]()
    inputs, targets = inputs_of(network, 3), [0, 1, 2]
    for output in network.outputs:
        found = gm.explain(network, inputs, targets, method=method, output=output)
        assert found.status == ("ok",) * 3
        assert (found.layer, found.cost) == (image_of(network), 2)
        assert found.cam.shape[1:] == found.size == next(iter(network.inputs.values()))[1:]
        for i, chosen in enumerate(targets):
            own = alone(inputs, i)
            expected = OF_BIASES[method](network, own, output, chosen, image_of(network))
            np.testing.assert_allclose(
                found.cam[i], expected, rtol=0, atol=TOLERANCE * expected.max()
            )


@pytest.mark.parametrize("name", LINEAR)
def test_input_and_biases_make_up_the_score(name):
    """Exactly, in float64, and as the package adds it up from the adapter's float32."""
    network = NETWORKS[name]()
    inputs, output = inputs_of(network, 2), next(iter(network.outputs))
    scores = Reference(network, inputs).scores[output]
    for i, chosen in enumerate([3, 1]):
        given, layers = slow_contributions(
            network, alone(inputs, i), output, chosen, image_of(network)
        )
        whole = sum(array.sum() for array in [*given.values(), *layers.values()])
        np.testing.assert_allclose(whole, scores[i, chosen], rtol=1e-12)
        assert abs(sum(array.sum() for array in given.values()) / whole - 1) > 1e-3

    def cotangents(trace):
        return {output: np.eye(5, dtype=np.float32)[[3, 1]]}

    model = gm.Explainer(network).model
    image = ImageInput(inputs, model.inputs, len(network.inputs[image_of(network)]) - 1)
    found = full_gradients(model, inputs, image, output, cotangents)
    parts = [found.image, *found.layers]
    total = found.others + sum(p.reshape(2, -1).sum(1, dtype=np.float64) for p in parts)
    largest = max(np.abs(p).reshape(2, -1).sum(1).max() for p in parts)
    np.testing.assert_allclose(total, scores[[0, 1], [3, 1]], rtol=0, atol=1e-6 * largest)
    np.testing.assert_allclose(found.score, scores[[0, 1], [3, 1]], rtol=1e-6)


@pytest.mark.parametrize("target", [2, gm.Probability(2), gm.ClassDifference(2, 1)])
def test_other_targets_have_the_contributions_to_their_gradient(target):
    found = gm.explain(probe_network(), probe_inputs(2), target, method="fullgrad")
    assert found.status == ("ok", "ok")


def test_a_batch_is_its_items_whatever_the_batch_size():
    network, inputs = NETWORKS["residual"](), inputs_of(NETWORKS["residual"](), 5)
    whole = gm.explain(network, inputs, range(5), method="fullgrad")
    for size in (1, 2):
        cut = gm.explain(network, inputs, range(5), method="fullgrad", batch_size=size)
        np.testing.assert_allclose(cut.cam, whole.cam, rtol=0, atol=1e-6 * whole.cam.max())


def test_one_more_run_for_all_layers(monkeypatch):
    runs = []
    begin = NumpyTrace.__init__

    def counted(self, network, inputs, layers, relu):
        runs.append(list(layers))
        begin(self, network, inputs, layers, relu)

    monkeypatch.setattr(NumpyTrace, "__init__", counted)
    network = NETWORKS["conv"]()
    gm.explain(network, inputs_of(network), 1, method="fullgrad")
    assert runs[1:] == [["image", "conv1", "conv2", "logits"]]


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # poor maps: what is tested
def test_poor_items_have_a_status_and_never_nan():
    inputs = probe_inputs(3)
    inputs[1, 0, 3, 3] = np.nan
    inputs[2, 1] = np.inf
    found = gm.explain(probe_network(), inputs, 2, method="fullgrad")
    assert found.status == ("ok", "nonfinite", "nonfinite")
    assert np.isfinite(found.heatmap).all()
    assert not found.cam[1:].any()
    dead = gm.explain(probe_network(dense="zero"), probe_inputs(2), 1, method="fullgrad")
    assert dead.status == ("zero_gradient",) * 2
    assert not dead.heatmap.any()


def test_what_is_not_linear_but_for_relu_is_refused():
    network = NETWORKS["token"]()
    with pytest.raises(
        gm.UnsupportedError, match=r"fullgrad .* 14 layers make up .* of a score of .*take another"
    ) as error:
        gm.explain(network, inputs_of(network), 1, method="fullgrad")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("lost", ["conv1", "a_norm", "logits"])
def test_a_bias_that_is_not_found_is_noticed(lost, monkeypatch):
    network = NETWORKS["residual" if lost == "a_norm" else "conv"]()
    biases = NumpyModel.biases

    def fewer(self, inputs):
        return {name: bias for name, bias in biases(self, inputs).items() if name != lost}

    monkeypatch.setattr(NumpyModel, "biases", fewer)
    with pytest.raises(gm.UnsupportedError, match="biases the adapter finds"):
        gm.explain(network, inputs_of(network), [0, 1, 2, 3], method="fullgrad")


class Bare:
    """A model that gives no biases."""

    def __init__(self, model):
        self.backend, self.inputs, self.outputs = "bare", model.inputs, model.outputs
        self.layers, self.trace = model.layers, model.trace


def test_models_without_biases_are_refused_by_name():
    explainer = gm.Explainer(probe_network(), method="fullgrad")
    explainer.model = Bare(explainer.model)
    with pytest.raises(gm.UnsupportedError, match=r"biases were asked for.*'bare'") as error:
        explainer(probe_inputs(2), 1)
    assert "\n" not in str(error.value)


def test_an_input_of_integers():
    network = NETWORKS["conv"]()
    whole = {"image": np.ones((2, *network.inputs["image"]), np.int64)}
    with pytest.raises(gm.InputError, match=r"input 'image'.*int64"):
        gm.explain(network, whole, 1, method="fullgrad")
