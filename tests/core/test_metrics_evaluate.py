"""Evaluations of a model: against loops over the public pieces, and against maps by lot."""

import json
import math

import numpy as np
import pytest
from numpy_adapter import NumpyModel, NumpyModule
from PIL import Image

import gradcam_multi as gm
from gradcam_multi import METHODS, metrics
from gradcam_multi.cam import ONE_PASS
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes, load_network
from gradcam_multi.errors import InputError, MethodError, TargetError
from gradcam_multi.metrics import RANDOM, Evaluation, Evaluator, Options, evaluate
from gradcam_multi.metrics.curves import ranks
from gradcam_multi.metrics.evaluator import with_method
from gradcam_multi.metrics.sanity import similarity
from gradcam_multi.metrics.score import ModelScore
from gradcam_multi.testing import Network, inputs_of
from gradcam_multi.testing.network import as_network
from gradcam_multi.testing.networks import dict_output, one_dimensional, three_dimensional, token
from gradcam_multi.testing.reference import probe_inputs, probe_network

RNG = np.random.default_rng(0)
SCENES = 100
SAME = 1e-5  # float32 forward passes in batches of other sizes
FAST = Options(steps=5, subsets=10, samples=2, shares=(0.3, 0.7))


@pytest.fixture(scope="module")
def network():
    return load_network("sound")


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(SCENES, seed=VALIDATION_SEED, marks="random")


def test_every_method_beats_maps_by_lot(network, scenes):
    masks = np.stack([scene.mask for scene in scenes])
    found = evaluate(
        network, as_inputs(scenes), masks=masks, metrics=["pointing-game", "energy"], batch_size=25
    )
    assert found.methods == (*ONE_PASS, RANDOM)
    for metric in found.metrics:
        assert found.count(metric) == SCENES
        # The object covers 9 % of a scene on average: what a map by lot can hope for.
        assert found.mean(RANDOM, metric) == pytest.approx(masks.mean(), abs=0.06)
        for method in set(ONE_PASS) - {"random-cam"}:  # a baseline itself
            lead = found.mean(method, metric) - found.mean(RANDOM, metric)
            # Beyond five standard errors of either mean it is no luck.
            errors = math.hypot(found.error(method, metric), found.error(RANDOM, metric))
            assert lead > 5 * errors, (method, metric)


def test_figures_against_the_public_pieces(network, scenes):
    """Average drop, complexity, energy and coherency from explanations, one picture at a time."""
    inputs, masks = as_inputs(scenes[:3]), np.stack([scene.mask for scene in scenes[:3]])
    names = [
        "average-drop",
        "increase",
        "average-gain",
        "complexity",
        "energy",
        "coherency",
        "adcc",
    ]
    found = evaluate(network, inputs, methods=["layercam"], metrics=names, masks=masks)
    for n in range(3):
        own = gm.explain(network, inputs[n : n + 1], method="layercam")
        heat, index = own.heatmap[0], own.classes[0]
        left = (inputs[n] * heat)[None]
        after = gm.explain(network, left, index, method="layercam")
        y, o = own.probabilities[0], after.probabilities[0]
        drop, brightness = max(0, y - o) / y, heat.mean(dtype=np.float64)
        r = np.corrcoef(heat.ravel(), after.heatmap.ravel())[0, 1]
        expected = {
            "average-drop": drop,
            "increase": float(o > y),
            "average-gain": max(0, o - y) / (1 - y),
            "complexity": brightness,
            "energy": heat[masks[n]].sum() / heat.sum(),
            "coherency": (1 + r) / 2,
            "adcc": 3 / (2 / (1 + r) + 1 / (1 - brightness) + 1 / (1 - drop)),
        }
        for name, value in expected.items():
            assert found.values["layercam"][name][n] == pytest.approx(value, abs=SAME), name


def test_curves_of_the_model(network, scenes):
    inputs = as_inputs(scenes[:1])
    found = evaluate(
        network, inputs, 3, methods=["gradcam"], metrics=["deletion"], options=Options(steps=3)
    )
    own = gm.explain(network, inputs, 3)
    order = ranks(own.heatmap)[0].argsort()  # equal pixels by lot: the same lot
    scores = []
    for count in (0, 3072, 6144, 9216):
        changed = inputs.reshape(3, -1).copy()
        changed[:, order[:count]] = changed.mean(1, keepdims=True)
        scores.append(gm.explain(network, changed.reshape(inputs.shape), 3).probabilities[0])
    area = (scores[0] / 2 + scores[1] + scores[2] + scores[3] / 2) / 3
    assert found.values["gradcam"]["deletion"][0] == pytest.approx(area, abs=SAME)


@pytest.mark.parametrize("metric", metrics.METRICS)
def test_every_metric_of_the_table(metric):
    """In its range, the same alone as in a batch, the same again, and finite for a blank map."""
    if "scipy" in metrics.METRICS[metric].needs:
        pytest.importorskip("scipy", reason="ROAD needs the extra metrics")
    network, inputs = probe_network(), probe_inputs(4)
    inputs[3] = 0
    masks = np.zeros((4, 16, 16), bool)
    masks[:, 4:9, 4:9] = True
    run = dict(metrics=[metric], masks=masks, options=FAST, methods=["gradcam", "layercam"])
    found = evaluate(network, inputs, 1, **run)
    info = metrics.METRICS[metric]
    for method in found.methods:
        values = found.values[method][metric]
        assert np.isfinite(values).all()
        assert (values >= info.low).all()
        assert (values <= info.high).all()
    parts = evaluate(network, inputs, 1, **run, batch_size=1)
    for method in found.methods:
        np.testing.assert_allclose(
            parts.values[method][metric], found.values[method][metric], atol=SAME
        )
    assert info.paper
    assert info.question


@pytest.mark.parametrize("build", [one_dimensional, three_dimensional, token])
def test_signals_volumes_and_tokens(build):
    network = build()
    (inputs,) = inputs_of(network).values()
    masks = RNG.random((len(inputs), *inputs.shape[2:])) < 0.3
    run = dict(methods=["layercam"], masks=masks, options=FAST)
    names = ["average-drop", "energy", "deletion", "mu-fidelity", "max-sensitivity"]
    found = evaluate(network, inputs, 1, metrics=names, **run).values["layercam"]
    own = gm.explain(network, inputs, 1, method="layercam")
    left = gm.explain(network, metrics.masked(inputs, own.heatmap), 1, method="layercam")
    drop = np.maximum(own.probabilities - left.probabilities, 0) / own.probabilities
    np.testing.assert_allclose(found["average-drop"], drop, atol=SAME)
    share = [h[m].sum() / h.sum() for h, m in zip(own.heatmap, masks, strict=True)]
    np.testing.assert_allclose(found["energy"], share, atol=SAME)
    score = ModelScore(gm.Explainer(network), own.targets)
    area = metrics.deletion(score, inputs, own.heatmap, steps=FAST.steps).area
    np.testing.assert_allclose(found["deletion"], area, atol=SAME)
    assert all(np.isfinite(values).all() for values in found.values())
    with pytest.raises(InputError, match=r"pictures \(N, C, H, W\)"):
        metrics.road(score, inputs[..., None, None], own.heatmap)


def test_a_blank_map_is_noted():
    inputs = probe_inputs(2)
    found = evaluate(probe_network(dense="zero"), inputs, 1, methods=["gradcam"])
    assert found.statuses["gradcam"] == ("zero_gradient",) * 2
    assert str(found).splitlines()[-1] == ("gradcam: 2 of 2 maps are not ok: 2 zero_gradient")


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # a blank map is a map here
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if "attention" not in m.needs])
def test_one_opened_model_serves_all_methods(name):
    network, inputs = probe_network(), probe_inputs(2)
    few = {"samples": 3}
    shared = with_method(gm.Explainer(network, **few), name)
    assert shared.method.name == name
    np.testing.assert_array_equal(
        shared(inputs, 2).cam, gm.Explainer(network, method=name, **few)(inputs, 2).cam
    )


def test_targets_one_for_all_and_one_an_item():
    network, inputs = probe_network(), probe_inputs(5)
    run = dict(methods=["gradcam"], metrics=["average-drop"], batch_size=2)
    several = evaluate(network, inputs, np.arange(5), **run)
    for n in range(5):
        alone = evaluate(network, inputs[n : n + 1], n, **run)
        for method in ("gradcam",):
            assert several.values[method]["average-drop"][n] == pytest.approx(
                alone.values[method]["average-drop"][0], abs=SAME
            )


def test_scores_are_probabilities_and_passes_are_counted():
    network, inputs = probe_network(), probe_inputs(5)
    explainer = gm.Explainer(network)
    found = explainer(inputs)
    score = ModelScore(explainer, found.targets, batch_size=2)
    np.testing.assert_allclose(score(inputs, np.arange(5)), found.probabilities, atol=SAME)
    assert score.passes == 5
    # Any order, each for its own item's class.
    np.testing.assert_allclose(
        score(inputs[[3, 3]], np.array([3, 1])),
        [
            found.probabilities[3],
            gm.explain(network, inputs[3:4], found.classes[1]).probabilities[0],
        ],
        atol=SAME,
    )


class TwoAtATime(NumpyModel):
    """A model whose batch is fixed, as some files' is."""

    def __init__(self, module):
        super().__init__(module)
        spec = self.inputs[0]
        self.inputs = (type(spec)(spec.name, (2, *spec.shape[1:]), spec.dtype, spec.layout),)

    def bind(self, inputs):
        assert len(inputs) == 2
        return super().bind(inputs)


def test_a_batch_of_fixed_size_is_filled_up():
    inputs = probe_inputs(3)
    explainer = gm.Explainer(probe_network())
    found = explainer(inputs)
    expected = found.probabilities
    explainer.model = TwoAtATime(NumpyModule(probe_network()))
    score = ModelScore(explainer, found.targets)
    np.testing.assert_allclose(score(inputs, np.arange(3)), expected, atol=SAME)


def test_maps_by_lot():
    draw = metrics.RandomMaps((3, 4), (12, 16), seed=5)
    inputs = np.zeros((2, 3, 12, 16), np.float32)
    one, two = draw(inputs), draw(inputs)
    assert one.shape == (2, 12, 16)
    assert one.min() == 0
    assert one.max() == 1
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(metrics.RandomMaps((3, 4), (12, 16), seed=5)(inputs), one)
    later = metrics.RandomMaps((3, 4), (12, 16), seed=5, first=1)
    np.testing.assert_array_equal(later(inputs[1:]), one[1:])


def test_maps_by_lot_have_their_peak_anywhere():
    """Beyond what clamping would do: 44 of 144 cells are at the border, corners among them."""
    maps = metrics.RandomMaps((12, 12), (96, 96))(np.zeros((1500, 1, 96, 96), np.float32))
    rows, columns = np.unravel_index(maps.reshape(1500, -1).argmax(1), (96, 96))
    edge = (np.minimum(rows, columns) < 8) | (np.maximum(rows, columns) >= 88)
    # The share of 1500 draws has a standard deviation of sqrt(0.31 * 0.69 / 1500) = 0.012. The
    # largest may slope in from the ring, at two cells' border: a pixel row of 96 on each side.
    assert edge.mean() == pytest.approx(44 / 144, abs=5 * 0.012)
    # Neighbouring cells are independent draws, smoothed by the interpolation alone.
    assert np.corrcoef(maps[:, 44, 44], maps[:, 44, 60])[0, 1] < 5 / 1500**0.5


def example():
    values = {
        "gradcam": {"deletion": np.array([0.2, 0.4]), "energy": np.array([0.5, np.nan])},
        "layercam": {"deletion": np.array([0.1, 0.1]), "energy": np.array([0.25, np.nan])},
        RANDOM: {"deletion": np.array([0.0, 0.0]), "energy": np.array([0.1, np.nan])},
    }
    statuses = {"gradcam": ("ok", "all_negative"), "layercam": ("ok", "ok")}
    return Evaluation(values, ("a.png", "b.png"), statuses, "relu5", "numpy", ("c.png is bad",))


def test_the_table():
    assert str(example()).splitlines() == [
        "2 items, layer relu5, numpy; * the best of the methods",
        "          deletion   energy",
        "gradcam     0.300    0.500*",
        "layercam    0.100*   0.250",
        "random      0.000    0.100",
        "items           2        1",
        "better      lower   higher",
        "gradcam: 1 of 2 maps are not ok: 1 all_negative",
    ]


def test_figures_and_report(tmp_path):
    found = example()
    assert found.error("gradcam", "deletion") == pytest.approx(0.1, abs=1e-12)  # 0.1414 / sqrt(2)
    assert math.isnan(found.error("gradcam", "energy"))
    assert found.best("deletion") == ("layercam",)  # the baseline does not take part
    report = json.loads(found.save(tmp_path / "x.json").read_text())
    assert report["methods"]["gradcam"]["energy"]["values"] == [0.5, None]
    assert report["methods"]["gradcam"]["deletion"]["mean"] == pytest.approx(0.3, abs=1e-12)
    assert report["metrics"]["energy"]["items"] == 1
    assert report["items"] == ["a.png", "b.png"]
    assert report["skipped"] == ["c.png is bad"]
    with pytest.raises(ValueError, match=r"'x.gif': the endings are .json and .png"):
        found.save(tmp_path / "x.gif")


def test_bars_are_as_long_as_their_values(tmp_path):
    from gradcam_multi.metrics import chart

    with Image.open(example().save(tmp_path / "x.png")) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    lengths = {}
    for colour in (chart._METHOD, chart._BEST, chart._BASELINE):
        same = (pixels == colour).all(-1)
        rows = same[84 + 54 :, : picture.width // 2]  # below the legend, the first chart
        lengths[colour] = rows.sum(1).max() if rows.any() else 0
    # The axis of deletion, 0 to 0.4, has 260 pixels; error bars are drawn over the bars' middle.
    assert lengths[chart._METHOD] == pytest.approx(0.3 / 0.4 * 260, abs=2)
    assert lengths[chart._BEST] == pytest.approx(0.1 / 0.4 * 260, abs=2)


def test_what_is_asked_wrongly():
    network, inputs = probe_network(), probe_inputs(2)
    with pytest.raises(MethodError, match="did you mean 'gradcam'"):
        evaluate(network, inputs, methods=["gradcm"])
    with pytest.raises(InputError, match=r"no metric is called 'deltion'.*did you mean 'deletion'"):
        evaluate(network, inputs, metrics=["deltion"])
    with pytest.raises(InputError, match="energy compares with masks"):
        evaluate(network, inputs, metrics=["energy"])
    with pytest.raises(InputError, match="no metric was asked for"):
        evaluate(network, inputs, metrics=[])
    with pytest.raises(InputError, match="no method was asked for"):
        evaluate(network, inputs, methods=[])
    with pytest.raises(TargetError, match="3 targets were given for 2 items"):
        evaluate(network, inputs, [1, 2, 3])
    with pytest.raises(InputError, match="1 masks were given for 2 items"):
        evaluate(network, inputs, masks=np.ones((1, 16, 16)))
    with pytest.raises(InputError, match="change one input"):
        evaluate(dict_output(), inputs_of(dict_output()))
    with pytest.raises(InputError, match="nothing was evaluated"):
        Evaluator(network).result()
    with pytest.raises(InputError, match="give 'blur', 'mean' or a number"):
        evaluate(network, inputs, metrics=["deletion"], options=Options(baseline="grey"))


def test_redrawing_changes_a_copy_only(network, scenes):
    before = {name: array.copy() for name, array in network.weights.items()}
    copy = metrics.shuffled(network, ["logits", "conv5"], seed=3)
    for name, array in before.items():
        np.testing.assert_array_equal(network.weights[name], array)
        redrawn = name.split(".")[0] in ("logits", "conv5")
        assert np.array_equal(copy.weights[name], array) != redrawn
        np.testing.assert_array_equal(np.sort(copy.weights[name].ravel()), np.sort(array.ravel()))
    # A layer's draws are its own: redrawing more leaves them.
    alone = metrics.shuffled(network, ["conv5"], seed=3)
    np.testing.assert_array_equal(alone.weights["conv5.weight"], copy.weights["conv5.weight"])
    assert metrics.weighted_layers(network) == (
        "logits", "conv5", "conv4", "conv3", "conv2", "conv1",
    )  # fmt: skip
    with pytest.raises(gm.LayerError, match="did you mean 'conv5'"):
        metrics.shuffled(network, ["conv55"])


def test_the_cascade_against_its_pieces(network, scenes):
    inputs = as_inputs(scenes[:4])
    found = metrics.cascade(network, inputs, method="layercam", layers=("logits", "conv5"))
    own = gm.explain(network, inputs, method="layercam")
    stats = pytest.importorskip("scipy.stats", reason="the referee of rank correlations")
    for step, names in enumerate((["logits"], ["logits", "conv5"])):
        changed = metrics.shuffled(network, names)
        again = gm.explain(changed, inputs, list(own.targets), method="layercam")
        for n in range(4):
            rank = stats.spearmanr(own.cam[n].ravel(), again.cam[n].ravel()).statistic
            assert found.similarity[step, n] == pytest.approx(rank, abs=1e-9)
    np.testing.assert_array_equal(found.mean, found.similarity.mean(1))


@pytest.mark.parametrize("method", ONE_PASS)
def test_every_method_passes_the_weight_randomisation(network, scenes, method):
    assert metrics.cascade(network, as_inputs(scenes[:16]), method=method).passed()


def test_a_function_of_ones_own_redraws_and_a_model_that_stays_fails(network, scenes):
    calls = []

    def randomise(model, layers):
        calls.append(tuple(layers))
        return model

    found = metrics.cascade(network, as_inputs(scenes[:2]), layers=("b", "a"), randomise=randomise)
    assert calls == [("b",), ("b", "a")]
    assert found.mean == pytest.approx([1, 1], abs=1e-12)  # float64 sums
    assert not found.passed()
    with pytest.raises(InputError, match="no layer was named"):
        metrics.cascade(network, as_inputs(scenes[:1]), layers=())


def test_other_labels(network, scenes):
    inputs = as_inputs(scenes[:6])
    found = metrics.random_logit(network, inputs, seed=1)
    own = gm.explain(network, inputs)
    for n in range(6):
        others = [
            similarity(own.cam[n : n + 1], gm.explain(network, inputs[n : n + 1], k).cam)[0]
            for k in range(8)
            if k != own.classes[n]
        ]
        assert np.abs(np.array(others) - found[n]).min() < SAME
    same = metrics.model_similarity(network, network, inputs)
    assert same == pytest.approx([1] * 6, abs=1e-12)  # float64 sums
    shortcut = metrics.model_similarity(network, load_network("shortcut"), inputs)
    assert shortcut.mean() < 0.9
    with pytest.raises(TargetError, match="another class was asked for"):
        metrics.random_logit(one_class(), probe_inputs(1), 0)


def one_class() -> Network:
    whole = as_network(probe_network())
    head = whole.logits["scores"]
    first = {f"{head}.{part}": whole.weights[f"{head}.{part}"][:1] for part in ("weight", "bias")}
    return Network(**{**vars(whole), "weights": {**whole.weights, **first}})
