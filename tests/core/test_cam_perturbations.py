"""The methods that run the model again against loops, on a made-up model and through the core."""

import numpy as np
import pytest
from cam_references import OF_AFFINE, OF_PROBES, Item
from numpy_adapter import NumpyTrace

import gradcam_multi as gm
from gradcam_multi.cam import METHODS, probed_maps, rescale
from gradcam_multi.testing import Reference, probe_inputs, probe_network

# Activations, masks and masked inputs are float32, the reference is float64.
TOLERANCE = 1e-5
GRIDS = [(7,), (4, 5), (2, 3, 4)]
SAMPLES = 5  # of masks and noisy inputs: enough to tell a sum from a mean
CLASSES = 6


class Model:
    """Two smooth functions in float64, of an image and of an activation, and a made-up gradient."""

    def __init__(self, image, activation):
        rng = np.random.default_rng(5)
        self.shape = activation

        def weights(*shape):
            return rng.normal(0, 1 / np.sqrt(shape[-1]), shape)

        pixels, values = int(np.prod(image)), int(np.prod(activation))
        self.of_image = weights(CLASSES, 9) * 4, weights(9, pixels)
        self.of_layer = weights(CLASSES, 9) * 4, weights(9, values)
        self.back, self.from_cotangent = weights(values, pixels), weights(values, CLASSES)

    def image_logits(self, image):
        return self.of_image[0] @ np.tanh(self.of_image[1] @ np.asarray(image, float).ravel())

    def layer_logits(self, activation):
        inner = self.of_layer[1] @ np.asarray(activation, float).ravel()
        return self.of_layer[0] @ np.tanh(inner)

    def gradient_at(self, image):
        return (self.back @ np.asarray(image, float).ravel() + 0.3).reshape(self.shape)

    def pulled(self, cotangent):
        return (self.from_cotangent @ cotangent).reshape(self.shape)


class MadeUpProbe:
    """A probe of that model which takes three variants at a time."""

    def __init__(self, model, images, activations, chosen, seed=0, samples=SAMPLES):
        self.model, self.image, self.activations = model, images, activations
        self.classes, self.seed, self.samples = chosen, seed, samples
        self.largest = 0

    @property
    def logits(self):
        return np.stack([self.model.image_logits(image) for image in self.image])

    def pulled(self, cotangents):
        return np.stack([self.model.pulled(row) for row in cotangents]).astype(np.float32)

    def gradients_at(self, count, make):
        for start in range(0, count, 3):
            for images in make(range(start, min(start + 3, count))):
                gradients = [self.model.gradient_at(image) for image in images]
                yield np.stack(gradients).astype(np.float32)

    def image_scores(self, count, make, *, probability=False):
        return self._scores(count, make, self.model.image_logits, probability)

    def replayed_scores(self, count, make, *, probability=False):
        return self._scores(count, make, self.model.layer_logits, probability)

    def _scores(self, count, make, logits, probability):
        rows = []
        for start in range(0, count, 3):
            made = make(range(start, min(start + 3, count)))
            for variant in made:
                row = []
                for item, chosen in zip(variant, self.classes, strict=True):
                    z = logits(item)
                    e = np.exp(z - z.max())
                    row.append(e[chosen] / e.sum() if probability else z[chosen])
                rows.append(row)
        return np.array(rows)


def made_up(grid, count, seed=0):
    """A probe, and the same items for the references."""
    rng = np.random.default_rng(seed)
    size = tuple(2 * n + 1 for n in grid)
    images = rng.normal(size=(count, 2, *size)).astype(np.float32)
    activations = np.maximum(rng.normal(size=(count, 6, *grid)), 0).astype(np.float32)
    activations[:, 0] = 0
    activations[:, 1] = 0.5  # a constant channel, which is no mask
    chosen = [int(c) for c in rng.integers(0, CLASSES, count)]
    model = Model(images.shape[1:], activations.shape[1:])
    items = [
        Item(
            image.astype(float), a.astype(float), c, model.image_logits, model.layer_logits,
            model.gradient_at, model.pulled, samples=SAMPLES,
        )
        for image, a, c in zip(images, activations, chosen, strict=True)
    ]  # fmt: skip
    return MadeUpProbe(model, images, activations, chosen), items


def maps_of(name, probe):
    finite = np.ones(len(probe.activations), bool)
    return probed_maps(probe, METHODS[name], finite_inputs=finite)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", OF_PROBES)
def test_method_equals_its_reference(name, grid, count):
    probe, items = made_up(grid, count)
    before = probe.image.copy(), probe.activations.copy()
    maps, status = maps_of(name, probe)
    for item, found, map_ in zip(items, status, maps, strict=True):
        expected = OF_PROBES[name](item)
        scale = np.abs(expected).max()
        assert (found == "all_negative") == (scale == 0)
        np.testing.assert_allclose(map_, expected, rtol=0, atol=TOLERANCE * scale)
    assert "ok" in status or count == 1
    np.testing.assert_array_equal(probe.image, before[0])
    np.testing.assert_array_equal(probe.activations, before[1])


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", OF_PROBES)
def test_broken_activations_give_a_status_and_never_nan(name, grid):
    probe, _ = made_up(grid, 8)
    a = probe.activations
    a[1] = np.nan
    a[2, 0, 0] = np.inf
    a[3] = 0
    a[4] = 1
    a[5] = -a[0]
    a[6] *= 1e30
    maps, status = maps_of(name, probe)
    assert np.isfinite(maps).all()
    assert status[0] in ("ok", "all_negative")
    assert status[1:3] == ("nonfinite", "nonfinite")
    assert not maps[1:3].any()
    if name == "rise":  # which does not look at the layer
        assert status[3:] == ("ok",) * 5
        return
    if name == "recipro-cam":  # 0.25 of a cell differs at the border even where A is constant
        assert status[3] == "constant"
    else:
        assert set(status[3:5]) <= {"constant", "all_negative", "zero_gradient"}
        assert not rescale(maps)[3:5].any()
    if name.startswith("scorecam"):  # probabilities are positive, and so is no sum of -A
        assert status[5] == "all_negative"
    # Where the made-up model saturates, no single channel changes its score.
    assert status[6] in ("ok", "all_negative", *["zero_gradient"] * (name == "ablationcam"))


def end_to_end(name, count=3, **settings):
    """What the core makes of the probe network, and the references' items."""
    network, inputs = probe_network(), probe_inputs(count)
    reference = Reference(network, inputs)
    targets = [int(c) for c in reference.logits.argmax(1)]
    # Behind the last ReLU the network is linear: noise would not change the gradient there.
    layer = "relu1" if name == "smoothgradcam++" else "relu2"
    explanation = gm.explain(
        network, inputs, targets, method=name, layer=layer, samples=SAMPLES, seed=3, **settings
    )
    cotangent = np.eye(5)[targets]

    def item(i):
        def image_logits(image):
            return Reference(network, image[None].astype(np.float32)).logits[0]

        def gradient_at(image):
            noisy = Reference(network, image[None].astype(np.float32))
            return noisy.vjp(cotangent[i : i + 1], layer)[0]

        alone = Reference(network, inputs[i : i + 1])
        return Item(
            inputs[i].astype(float), reference.tensors[layer][i], targets[i], image_logits,
            lambda a: alone.replay(layer, a[None])[0], gradient_at,
            lambda row: alone.vjp(row[None], layer)[0], seed=3, samples=SAMPLES,
        )  # fmt: skip

    return explanation, [item(i) for i in range(count)], layer


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # some items have no evidence
@pytest.mark.parametrize("name", [*OF_PROBES, *OF_AFFINE])
def test_the_core_makes_the_reference_s_map(name):
    explanation, items, layer = end_to_end(name)
    assert "ok" in explanation.status
    for item, found, map_ in zip(items, explanation.status, explanation.cam, strict=True):
        expected = {**OF_PROBES, **OF_AFFINE}[name](item)
        scale = np.abs(expected).max()
        assert (found == "all_negative") == (scale == 0)
        # The adapter rounds each run's logits to float32, and weights may be their differences.
        np.testing.assert_allclose(map_, expected, rtol=0, atol=10 * TOLERANCE * scale)
    assert explanation.seed == 3
    assert explanation.layer == ("image" if name == "rise" else layer)


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # some items have no evidence
@pytest.mark.parametrize("name", [*OF_PROBES, *OF_AFFINE])
def test_a_batch_is_its_items_whatever_the_batch_size(name):
    whole, _, _ = end_to_end(name)
    for size in (1, 2, 7):
        cut, _, _ = end_to_end(name, batch_size=size)
        np.testing.assert_allclose(cut.cam, whole.cam, rtol=0, atol=1e-6 * whole.cam.max())
        assert cut.status == whole.status


@pytest.mark.parametrize("name", ["ss-cam", "smoothgradcam++", "rise", "random-cam"])
def test_seeds_decide(name):
    network, inputs = probe_network(), probe_inputs(2)
    one, same, other = (
        gm.explain(network, inputs, 2, method=name, layer="relu1", samples=3, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.cam, same.cam)
    assert not np.allclose(one.cam, other.cam)


# Those of token models have a test of their own.
UNIT_FREE = [n for n, m in METHODS.items() if m.unit_free and "attention" not in m.needs]


@pytest.mark.parametrize("scale", [1e-6, 1e6])
@pytest.mark.parametrize("name", UNIT_FREE)
def test_the_unit_of_the_logits_does_not_matter(name, scale):
    inputs = probe_inputs(3)
    expected = gm.explain(probe_network(), inputs, 2, method=name, samples=SAMPLES)
    scaled = gm.explain(probe_network(scale=scale), inputs, 2, method=name, samples=SAMPLES)
    assert scaled.status == expected.status
    # Scaled weights round differently in float32; ablation takes differences of what they give.
    np.testing.assert_allclose(scaled.heatmap, expected.heatmap, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # a map may become constant
@pytest.mark.parametrize("name", [n for n in METHODS if not METHODS[n].unit_free])
def test_probabilities_depend_on_the_unit_of_the_logits(name):
    """As their papers define them: a softmax of logits times 1e-6 tells no class from another."""
    inputs = probe_inputs(3)
    one, other = (
        gm.explain(probe_network(scale=scale), inputs, 2, method=name, samples=SAMPLES).heatmap
        for scale in (1, 1e-6)
    )
    assert np.abs(one - other).max() > 1e-3  # ten times what rounding changes


COSTS = {
    "gradcam": (1, 1), "eigencam": (1, 1), "random-cam": (1, 1), "finer-cam": (1, 1),
    "scorecam": (1 + 8, 1 + 8), "scorecam-softmax": (1 + 8, 1 + 8),
    "ss-cam": (1 + 8 * SAMPLES, 1 + 8 * SAMPLES), "is-cam": (1 + 8 * SAMPLES, 1 + 8 * SAMPLES),
    "smoothgradcam++": (1 + SAMPLES, 1 + SAMPLES), "rise": (1 + SAMPLES, 1 + SAMPLES),
    # 9 and 64 variants from the layer on, three at a time, and three copies to start from.
    "cam": (1 + 3, 1), "shapley-cam": (1 + 5, 1),
    "ablationcam": (1 + 3 + 9, 1 + 3), "recipro-cam": (1 + 3 + 66, 1 + 3),
}  # fmt: skip


@pytest.mark.parametrize("name", COSTS)
def test_forward_passes_are_those_that_are_stated(name, monkeypatch):
    whole, replayed = [], []
    begin, replay = NumpyTrace.__init__, NumpyTrace.replay

    def counted(self, network, inputs, *arguments):
        whole.append(len(inputs["image"]))
        begin(self, network, inputs, *arguments)

    def counted_replay(self, layer, activation):
        replayed.append(len(activation))
        return replay(self, layer, activation)

    monkeypatch.setattr(NumpyTrace, "__init__", counted)
    monkeypatch.setattr(NumpyTrace, "replay", counted_replay)
    explanation = gm.explain(
        probe_network(), probe_inputs(2), None, method=name, samples=SAMPLES, batch_size=6
    )
    stated, runs = COSTS[name]
    assert explanation.cost == stated
    assert sum(whole) == 2 * runs
    assert sum(replayed) == 2 * (stated - runs)
    assert max(whole + replayed) <= 6  # never more than a batch


def test_the_targets_own_score_is_used_where_it_is_no_class():
    network, inputs = probe_network(softmax=True), probe_inputs(2)
    logit = gm.explain(network, inputs, 1, method="scorecam")
    p = gm.explain(network, inputs, gm.Probability(1), method="scorecam")
    np.testing.assert_array_equal(logit.cam, p.cam)  # the authors weigh by the probability
    assert not np.allclose(logit.scores, p.scores)


def test_what_cannot_be_asked():
    network, inputs = probe_network(), probe_inputs(2)
    with pytest.raises(gm.MethodError, match=r"guided was asked for with method 'rise'.*gradcam,"):
        gm.explain(network, inputs, method="rise", guided=True)
    with pytest.raises(gm.InputError, match="samples=0 was asked for: give at least 1"):
        gm.explain(network, inputs, method="rise", samples=0)
    with pytest.raises(gm.TargetError, match="compares a class with others, and target"):
        gm.explain(network, inputs, Sum(), method="finer-cam")


class Sum:
    def resolve(self, logits, labels):
        return self

    def score(self, logits, activation):
        return logits.sum(), np.ones_like(logits)


def test_what_changes_nothing_is_said_to():
    with pytest.warns(gm.CamWarning, match="zero_gradient"):
        found = gm.explain(probe_network(dense="zero"), probe_inputs(2), 1, method="ablationcam")
    assert found.status == ("zero_gradient",) * 2
    assert not found.heatmap.any()
