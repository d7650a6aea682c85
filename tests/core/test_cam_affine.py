"""CAM and Shapley-CAM: exact where a network is affine behind the layer, refused elsewhere."""

import numpy as np
import pytest
from cam_references import OF_AFFINE, Item

import gradcam_multi as gm
from gradcam_multi.cam import METHODS, probed_maps, rescale
from gradcam_multi.testing import NETWORKS, inputs_of, probe_inputs, probe_network

# Activations, steps and weights are float32, the reference is float64; Shapley-CAM's takes second
# differences.
TOLERANCE = 2e-5
GRIDS = [(7,), (4, 5), (2, 3, 4)]
CHANNELS, CLASSES = 6, 5


class Head:
    """A probe of a network that is a function of the activations; float64."""

    def __init__(self, activations, logits, gradient, chosen):
        self.activations, self.of, self.gradient, self.classes = (
            activations,
            logits,
            gradient,
            chosen,
        )
        self.seed, self.samples, self.of_classes = 0, None, True

    def gradients(self):
        return self.pulled(np.eye(CLASSES)[self.classes])

    @property
    def logits(self):
        return np.array([self.of(a.astype(float)) for a in self.activations])

    def once(self, fact, tried):
        tried()

    def pulled(self, cotangents):
        pairs = zip(self.activations, cotangents, strict=True)
        return np.stack([self.gradient(a.astype(float), row) for a, row in pairs]).astype(
            np.float32
        )

    def replayed_logits(self, count, make):
        made = make(range(count))
        return np.array([[self.of(a.astype(float)) for a in variant] for variant in made])

    def replayed_scores(self, count, make, *, probability=False):
        return self.replayed_logits(count, make)[:, range(len(self.classes)), self.classes]


def pooled_head(grid, count, seed=0, scale=1.0):
    """Global mean pooling and a dense layer over random activations, and its weights."""
    rng = np.random.default_rng(seed)
    a = np.maximum(rng.normal(size=(count, CHANNELS, *grid)), 0).astype(np.float32)
    a[:, 0] = 0
    weights, bias = rng.normal(size=(CLASSES, CHANNELS)) * scale, rng.normal(size=CLASSES) * scale
    cells = int(np.prod(grid))

    def logits(one):
        return weights @ one.reshape(CHANNELS, -1).mean(1) + bias

    def gradient(one, cotangent):
        flat = np.repeat((cotangent @ weights / cells)[:, None], cells, 1)
        return flat.reshape(one.shape)

    chosen = [int(c) for c in rng.integers(0, CLASSES, count)]
    return Head(a, logits, gradient, chosen), weights


def items_of(head):
    for a, chosen in zip(head.activations, head.classes, strict=True):
        yield Item(None, a.astype(float), chosen, None, head.of, None, None)


def maps_of(name, head):
    finite = np.ones(len(head.activations), bool)
    return probed_maps(head, METHODS[name], finite_inputs=finite)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", OF_AFFINE)
def test_method_equals_its_reference(name, grid, count):
    head, _ = pooled_head(grid, count)
    maps, status = maps_of(name, head)
    for item, found, map_ in zip(items_of(head), status, maps, strict=True):
        expected = OF_AFFINE[name](item)
        scale = np.abs(expected).max()
        assert (found == "all_negative") == (scale == 0)
        np.testing.assert_allclose(map_, expected, rtol=0, atol=TOLERANCE * scale)


@pytest.mark.parametrize("backend_of", ["made up", "network"])
def test_cam_has_the_weights_of_the_dense_layer(backend_of):
    if backend_of == "made up":
        head, weights = pooled_head((4, 5), 3)
        maps, a, chosen = maps_of("cam", head)[0], head.activations, head.classes
    else:
        network, inputs, chosen = probe_network(), probe_inputs(3), [1, 4, 2]
        maps = gm.explain(network, inputs, chosen, method="cam").cam
        a = gm.Explainer(network).model
        with a.trace(inputs, ["relu2"]) as trace:
            a = trace.activations[0]
        weights = network.weights["logits.weight"]
    for map_, activations, c in zip(maps, a, chosen, strict=True):
        expected = np.tensordot(weights[c], activations, 1)
        # float32 sums of 8 channels, and of the 64 cells that the gradient was divided over
        np.testing.assert_allclose(map_, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert maps.min() < 0  # signed, as in the paper


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_logits_does_not_matter(scale):
    expected = rescale(maps_of("cam", pooled_head((4, 5), 3)[0])[0])
    scaled = rescale(maps_of("cam", pooled_head((4, 5), 3, scale=scale)[0])[0])
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=1e-5)  # float32


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", OF_AFFINE)
def test_broken_activations_give_a_status_and_never_nan(name, grid):
    head, _ = pooled_head(grid, 6)
    head.activations[1] = np.nan
    head.activations[2, 0, 0] = np.inf
    head.activations[3] = 0
    head.activations[4] = 1
    head.activations[5] *= 1e30
    maps, status = maps_of(name, head)
    assert np.isfinite(maps).all()
    assert status[0] == "ok"
    assert status[1:3] == ("nonfinite", "nonfinite")
    assert status[3] == "constant"
    assert set(status[4:5]) <= {"constant", "all_negative"}
    assert not rescale(maps)[1:5].any()
    # Where one class is certain the score is linear; evidence may be against it only.
    assert status[5] in ("ok", "all_negative")


def hidden(units, function):
    """A head with a hidden layer behind the pooling."""

    def build(grid):
        head, _ = pooled_head(grid, 3)
        rng = np.random.default_rng(7)
        first, second = rng.normal(size=(units, CHANNELS)), rng.normal(size=(CLASSES, units))
        cells, step = int(np.prod(grid)), 1e-4

        def of_mean(mean):
            return second @ function(first @ mean)

        def gradient(one, cotangent):
            mean = one.reshape(CHANNELS, -1).mean(1)
            slopes = [
                cotangent @ (of_mean(mean + step * e) - of_mean(mean - step * e)) / (2 * step)
                for e in np.eye(CHANNELS)
            ]
            return np.repeat(np.array(slopes)[:, None] / cells, cells, 1).reshape(one.shape)

        return Head(
            head.activations, lambda a: of_mean(a.reshape(CHANNELS, -1).mean(1)), gradient,
            head.classes,
        )  # fmt: skip

    return build


def by_position(grid):
    """Affine, but what a channel is worth depends on the cell."""
    head, _ = pooled_head(grid, 3)
    weights = np.random.default_rng(7).normal(size=(CLASSES, *head.activations.shape[1:]))
    flat = weights.reshape(CLASSES, -1)
    return Head(
        head.activations, lambda a: flat @ a.ravel(),
        lambda a, cotangent: np.tensordot(cotangent, weights, 1), head.classes,
    )  # fmt: skip


HEADS = {
    "a hidden ReLU": hidden(9, lambda x: np.maximum(x, 0)),
    "one hidden ReLU": hidden(1, lambda x: np.maximum(x + 0.2, 0)),
    "a smooth layer": hidden(9, np.tanh),
    "nearly linear": hidden(9, lambda x: np.where(x > 0, x, 0.8 * x)),
}


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", OF_AFFINE)
def test_what_is_not_affine_is_refused(name, head, grid):
    with pytest.raises(gm.LayerError, match=rf"{name} was asked for at a layer where .* only; ta"):
        maps_of(name, HEADS[head](grid))


def test_weights_that_differ_from_cell_to_cell_are_no_cam():
    with pytest.raises(gm.LayerError, match="gradient differs between the cells of a channel"):
        maps_of("cam", by_position((4, 5)))
    head = by_position((4, 5))  # affine all the same
    for item, map_ in zip(items_of(head), maps_of("shapley-cam", head)[0], strict=True):
        expected = OF_AFFINE["shapley-cam"](item)
        np.testing.assert_allclose(map_, expected, rtol=0, atol=TOLERANCE * expected.max())


def test_an_earlier_layer_and_a_score_that_is_no_logit_are_refused():
    network, inputs = probe_network(softmax=True), probe_inputs(2)
    with pytest.raises(gm.LayerError, match="gradient differs between the cells"):
        gm.explain(network, inputs, method="cam", layer="relu1")
    with pytest.raises(gm.LayerError, match="no sum over the channels' means"):
        gm.explain(network, inputs, gm.Probability(1), method="cam")
    with pytest.raises(gm.LayerError, match="logits are not affine"):
        gm.explain(network, inputs, method="shapley-cam", layer="relu1")


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # some items have no evidence
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "token"])
def test_where_cam_is_defined_gradcam_is_its_positive_part(name):
    network = NETWORKS[name]()
    inputs = inputs_of(network, 2)
    output, layer = next(iter(network.defaults.items()))
    asked = {"output": output, "layer": layer}
    found = gm.explain(network, inputs, [0, 1], method="cam", **asked)
    plain = gm.explain(network, inputs, [0, 1], **asked)
    expected = np.maximum(found.cam, 0) / found.cam[0].size
    np.testing.assert_allclose(plain.cam, expected, rtol=0, atol=1e-5 * expected.max())  # float32


def test_a_network_of_tokens_is_refused():
    network = NETWORKS["token"]()
    for name in OF_AFFINE:
        with pytest.raises(gm.LayerError, match=f"{name} was asked for at a layer where"):
            gm.explain(network, inputs_of(network, 2), [0, 1], method=name)


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # some items have no evidence
@pytest.mark.parametrize(("name", "first", "later"), [("cam", 4, 1), ("shapley-cam", 6, 2)])
def test_a_network_is_tried_once_for_all_its_classes(name, first, later):
    network, inputs, broken = probe_network(softmax=True), probe_inputs(2), probe_inputs(2)
    broken[1] = np.nan
    explainer = gm.Explainer(network, method=name)
    assert explainer(broken, [0, 1]).cost == first
    assert explainer(inputs, [0, 1]).cost == first  # of the broken item nothing was seen
    assert explainer(inputs, [2, 3]).cost == later
    assert explainer(probe_inputs(3), 4).cost == later
    fresh = gm.explain(network, inputs, [2, 3], method=name)
    np.testing.assert_array_equal(explainer(inputs, [2, 3]).cam, fresh.cam)
    several = gm.Explainer(network, method=name, layer=["relu2", "relu1"], fuse="mean")
    with pytest.raises(gm.LayerError, match=f"{name} was asked for at a layer where"):
        several(inputs, 1)


def test_what_was_tried_for_classes_says_nothing_of_other_scores():
    explainer, inputs = gm.Explainer(probe_network(softmax=True), method="cam"), probe_inputs(2)
    explainer(inputs, 1)
    with pytest.raises(gm.LayerError, match="no sum over the channels' means"):
        explainer(inputs, gm.Probability(1))


def test_a_class_that_is_affine_beside_others_that_are_not_is_tried_each_time():
    head, _ = pooled_head((4, 5), 2)
    head.classes = [0, 0]
    other, tried = head.of, []
    head.of = lambda a: np.append(other(a)[:1], np.maximum(other(a)[1:], 0))
    head.once = lambda fact, find: tried.append(find())
    maps_of("cam", head)
    assert tried == [False]


def test_a_difference_of_classes_is_affine_too():
    explainer, inputs = gm.Explainer(probe_network(), method="cam"), probe_inputs(2)
    one, other = (explainer(inputs, target).cam for target in (1, 2))
    for _ in range(2):
        found = explainer(inputs, gm.ClassDifference(1, 2))
        assert found.cost == 4
        # float32 maps, and their difference
        scale = np.abs(one).max() + np.abs(other).max()
        np.testing.assert_allclose(found.cam, one - other, rtol=0, atol=1e-6 * scale)
