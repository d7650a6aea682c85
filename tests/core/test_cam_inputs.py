"""The methods of the input's gradient against loops, on every kind of network."""

import numpy as np
import pytest
from input_gradient_references import OF_INPUTS, Differentiated
from numpy_adapter import NumpyTrace

import gradcam_multi as gm
from gradcam_multi.image_input import ImageInput
from gradcam_multi.spec import TensorSpec
from gradcam_multi.testing import NETWORKS, Reference, inputs_of, probe_inputs, probe_network
from gradcam_multi.testing.networks import without_relu

# The adapter rounds logits and gradients to float32; means of gradients and products of two keep
# that. Noisy inputs are float32 here and float64 in the reference, and a ReLU may stand between.
TOLERANCE = 1e-5
SAMPLES = 4  # enough to tell a sum from a mean
GUIDED = ("guided-backprop", "guided-gradcam")
VARIED = ("integrated-gradients", "smoothgrad")
pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # no evidence: a status


def image_of(network):
    """The input that the map lies over: the one that has a grid."""
    return max(network.inputs, key=lambda name: len(network.inputs[name]))


def items_of(network, output, layer, inputs, targets, **settings):
    """The same items for the references."""
    image, (prefix, grid) = image_of(network), network.fold or (0, None)
    for i, chosen in enumerate(targets):
        own = {name: array[i : i + 1] for name, array in inputs.items()}
        alone = Reference(network, own)
        cotangent = {output: np.eye(alone.scores[output].shape[1])[[chosen]]}

        def gradient(changed, relu, own=own, cotangent=cotangent):
            given = {**own, image: changed[None].astype(np.float32)}
            return Reference(network, given).vjp(cotangent, image, relu)[0]

        a, g = (
            alone.to_core(layer, array)[0]
            for array in (alone.tensors[layer], alone.vjp(cotangent, layer))
        )
        if grid:
            a, g = (row[:, prefix:].reshape(len(row), *grid) for row in (a, g))
        yield Differentiated(own[image][0].astype(float), gradient, a, g, **settings)


def assert_reference(found, items, method, tolerance=TOLERANCE):
    for i, item in enumerate(items):
        attribution, map_ = OF_INPUTS[method](item)
        scale, largest = np.abs(map_).max(), np.abs(attribution).max()
        assert (found.status[i] in ("all_negative", "zero_gradient")) == (scale == 0)
        np.testing.assert_allclose(found.cam[i], map_, rtol=0, atol=tolerance * scale)
        np.testing.assert_allclose(
            found.attribution[i], attribution, rtol=0, atol=tolerance * largest
        )


@pytest.mark.parametrize("method", OF_INPUTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network(name, method):
    network = NETWORKS[name]()
    inputs, targets = inputs_of(network, 3), [0, 1, 2]
    output, layer = next(iter(network.defaults.items()))
    found = gm.explain(
        network, inputs, targets, method=method, output=output, samples=SAMPLES, seed=3
    )
    assert found.layer == (layer if method == "guided-gradcam" else image_of(network))
    assert found.cam.shape[1:] == found.attribution.shape[2:] == found.size
    assert "ok" in found.status
    items = items_of(network, output, layer, inputs, targets, samples=SAMPLES, seed=3)
    # Noisy inputs are rounded to the network's own dtype on either side, which is 11 bits here.
    assert_reference(found, items, method, 2e-3 if network.dtype == "float16" else TOLERANCE)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("method", OF_INPUTS)
def test_a_batch_is_its_items_whatever_the_batch_size(method, count):
    network, inputs = NETWORKS["conv"](), inputs_of(NETWORKS["conv"](), count)
    targets = [i % 5 for i in range(count)]
    options = {"method": method, "samples": SAMPLES}
    whole = gm.explain(network, inputs, targets, **options)
    output, layer = next(iter(network.defaults.items()))
    assert_reference(
        whole, items_of(network, output, layer, inputs, targets, samples=SAMPLES), method
    )
    for size in (1, 3, 20):
        cut = gm.explain(network, inputs, targets, batch_size=size, **options)
        assert (cut.status, cut.cost) == (whole.status, whole.cost)
        for one, other in ((cut.cam, whole.cam), (cut.attribution, whole.attribution)):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())


@pytest.mark.parametrize("method", OF_INPUTS)
def test_forward_passes_are_those_that_are_stated(method, monkeypatch):
    runs = []
    begin = NumpyTrace.__init__

    def counted(self, network, inputs, layers, relu):
        runs.append((len(inputs["image"]), relu))
        begin(self, network, inputs, layers, relu)

    monkeypatch.setattr(NumpyTrace, "__init__", counted)
    found = gm.explain(
        probe_network(), probe_inputs(2), None, method=method, samples=SAMPLES, batch_size=6
    )
    stated = eval(gm.METHODS[method].cost.partition(",")[0], {"n": SAMPLES})
    assert found.cost == stated
    assert sum(count for count, _ in runs) == 2 * stated
    assert max(count for count, _ in runs) <= 6  # never more than a batch
    rules = {"guided-backprop": {"guided"}, "guided-gradcam": {"plain", "guided"}}
    assert {relu for _, relu in runs} == rules.get(method, {"plain"})


@pytest.mark.parametrize("baseline", [0.0, 0.5, "a colour", "noise"])
def test_integrated_gradients_are_complete(baseline):
    network, inputs = probe_network(), probe_inputs(2)
    if baseline == "a colour":
        baseline = np.array([0.2, 0.5, 0.8], np.float32)[:, None, None]
    elif baseline == "noise":
        baseline = np.random.default_rng(4).random((3, 16, 16), np.float32)
    found = gm.explain(
        network, inputs, 2, method="integrated-gradients", samples=600, baseline=baseline
    )
    start = np.broadcast_to(np.float32(baseline), inputs.shape).astype(np.float32)
    expected = found.scores - Reference(network, start).logits[:, 2]
    assert np.abs(expected).max() > 0.1
    # The gradient is constant but for some hundred jumps on the way (a ReLU, another maximum):
    # a step holds at most a few of them, and errs by half of its share of S(x) - S(b).
    given = found.attribution.sum((1, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(given, expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    coarse = gm.explain(network, inputs, 2, method="integrated-gradients", baseline=baseline)
    error = np.abs(coarse.attribution.sum((1, 2, 3)) - expected).max()
    assert np.abs(given - expected).max() < error  # more steps, closer


def test_integrated_gradients_of_a_line_need_one_step():
    network = without_relu()  # nothing bends, but its pooling: the midpoint is that of a line
    inputs = inputs_of(network, 2)
    given = {"method": "integrated-gradients", "baseline": inputs["image"][0] * 0.5}
    one, many = (gm.explain(network, inputs, 1, samples=n, **given) for n in (1, 9))
    half = one.attribution[0], many.attribution[0]  # along x itself no maximum changes places
    np.testing.assert_allclose(*half, rtol=0, atol=1e-5 * np.abs(half[0]).max())


def test_seeds_decide():
    one, same, other = (
        gm.explain(probe_network(), probe_inputs(2), 2, method="smoothgrad", samples=3, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.attribution, same.attribution)
    assert not np.allclose(one.cam, other.cam)


@pytest.mark.parametrize("method", OF_INPUTS)
def test_poor_items_have_a_status_and_never_nan(method):
    inputs = probe_inputs(4)
    inputs[1, 0, 3, 3] = np.nan
    inputs[2, 1] = np.inf
    inputs[3] = 0
    found = gm.explain(probe_network(), inputs, 2, method=method, samples=SAMPLES)
    assert found.status[:3] == ("ok", "nonfinite", "nonfinite")
    assert np.isfinite(found.attribution).all()
    assert np.isfinite(found.heatmap).all()
    assert not found.attribution[1:3].any()
    assert not found.cam[1:3].any()
    if method == "integrated-gradients":  # x is the baseline, and there is nothing to share
        assert found.status[3] == "zero_gradient"
        assert not found.attribution[3].any()


@pytest.mark.parametrize("method", OF_INPUTS)
def test_scores_that_nothing_changes_or_that_all_is_against(method):
    dead = gm.explain(probe_network(dense="zero"), probe_inputs(2), 1, method=method, samples=2)
    assert dead.status == ("zero_gradient",) * 2
    assert not dead.heatmap.any()
    assert not dead.attribution.any()
    against = gm.explain(
        probe_network(dense="negative"), probe_inputs(2), 1, method=method, samples=2
    )
    if method == "guided-gradcam":
        assert against.status == ("all_negative",) * 2
    elif method == "guided-backprop":  # the last ReLU hands back nothing at all
        assert against.status == ("zero_gradient",) * 2
    else:
        assert set(against.status) <= {"ok", "all_negative"}


@pytest.mark.parametrize("method", OF_INPUTS)
def test_what_cannot_be_asked(method):
    network = NETWORKS["conv"]()
    whole = {"image": np.ones((2, *network.inputs["image"]), np.int64)}
    with pytest.raises(gm.InputError, match=r"input 'image'.*int64.*give floating-point") as error:
        gm.explain(network, whole, 1, method=method)
    assert "\n" not in str(error.value)
    with pytest.raises(gm.MethodError, match=f"guided was asked for with method '{method}'"):
        gm.explain(probe_network(), probe_inputs(2), method=method, guided=True)
    if method in GUIDED:
        bare = without_relu()
        with pytest.raises(gm.UnsupportedError, match=f"{bare.name}.* runs no ReLU") as error:
            gm.explain(bare, inputs_of(bare), 1, method=method)
        assert "\n" not in str(error.value)


def test_baselines_that_do_not_fit():
    explainer = gm.Explainer(
        probe_network(), method="integrated-gradients", baseline=np.zeros((2, 16, 16))
    )
    with pytest.raises(gm.InputError, match=r"shape \(2, 16, 16\) .*'image' has \(3, 16, 16\)"):
        explainer(probe_inputs(2), 1)


def test_inputs_without_an_image():
    # A row of numbers, of which a network makes a map: there is nothing for it to lie over.
    image = ImageInput(np.zeros((2, 7), np.float32), (), 2)
    with pytest.raises(gm.InputError, match="none of the 1 has the map's 2 spatial axes"):
        image.check_floating()


SPECS = (
    TensorSpec("batch.age", (None, 1), "float32"),
    TensorSpec("batch.photo", (None, 4, 5, 3), "float32", layout="channels_last"),
)


def test_an_image_in_a_mapping_that_is_one_argument():
    photo = np.zeros((2, 4, 5, 3), np.float32)
    image = ImageInput({"age": np.zeros((2, 1), np.float32), "photo": photo}, SPECS, 2)
    assert image.name == "batch.photo"


def test_baselines_in_the_layout_of_the_input():
    rng = np.random.default_rng(0)
    image = ImageInput(rng.random((2, 4, 5, 3), np.float32), SPECS[1:], 2)
    values = rng.random((4, 5, 3), np.float32)
    np.testing.assert_array_equal(image.like_item(values), np.moveaxis(values, -1, 0))
    colour = image.like_item([1, 2, 3])
    assert colour.shape == (3, 4, 5)
    np.testing.assert_array_equal(colour[:, 2, 2], [1, 2, 3])


def test_attributions_go_with_their_items(tmp_path):
    explainer = gm.Explainer(probe_network(), method="saliency", batch_size=2)
    found = explainer(probe_inputs(3), 1)
    assert found.attribution.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(found[1].attribution, found.attribution[1:2])
    np.testing.assert_array_equal(found[1:].attribution, found.attribution[1:])
    with np.load(found.save(tmp_path / "found.npz")) as saved:
        np.testing.assert_array_equal(saved["attribution"], found.attribution)
    plain = gm.explain(probe_network(), probe_inputs(3), 1)
    assert plain.attribution is None
    assert plain[1].attribution is None
    with np.load(plain.save(tmp_path / "plain.npz")) as saved:
        assert "attribution" not in saved
    smooth = gm.explain(probe_network(), probe_inputs(3), 1, method="saliency", smooth="flip")
    assert smooth.attribution is None  # the heatmap is a mean of several, the attribution of one
