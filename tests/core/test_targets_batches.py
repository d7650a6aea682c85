"""Targets on whole batches, through the public interface and the NumPy adapter."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy_adapter import NumpyModel, NumpyTrace

import gradcam_multi as gm
from gradcam_multi.cam import method_named, raw_maps
from gradcam_multi.errors import TargetCountError, TargetError
from gradcam_multi.targets import as_targets, chosen_output, score_batch
from gradcam_multi.testing import Reference, probe_inputs, probe_network
from gradcam_multi.testing.network import Network, Node
from gradcam_multi.testing.networks import NETWORKS, inputs_of

FLOAT32 = 2e-5  # a handful of roundings through small convolutions, of the largest value


def close(found, expected):
    scale = float(np.abs(expected).max())
    assert scale > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=FLOAT32 * scale)


@pytest.fixture(scope="module")
def many():
    """A network that returns scores, an embedding, a map, and tokens of a further one."""
    rng = np.random.default_rng(5)
    shapes = {
        "conv1.weight": (6, 3, 3, 3), "conv2.weight": (8, 6, 3, 3), "segment.weight": (3, 8, 1, 1),
        "scores.weight": (4, 8), "embed.weight": (7, 8),
    }  # fmt: skip
    # More for than against, so that ReLU leaves something of every map.
    means = {"segment.weight": 0.3, "scores.weight": 0.4, "embed.weight": 0.4}
    weights = {
        name: rng.normal(means.get(name, 0), 0.4, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    for name in ("conv1", "conv2", "segment"):
        weights[f"{name}.bias"] = rng.normal(0, 0.2, len(weights[f"{name}.weight"])).astype("f4")
    for name in ("scores", "embed"):
        weights[f"{name}.bias"] = rng.normal(0, 0.2, len(weights[f"{name}.weight"])).astype("f4")
    # As large for each class, so that each is predicted somewhere.
    weights["segment.bias"] = np.array([-1.9, -0.95, -2.75], np.float32)
    like = {"conv": NETWORKS["residual"]().nodes[0].attributes}
    shift = next(n for n in NETWORKS["residual"]().nodes if n.name == "s_conv").attributes
    nodes = (
        Node("conv1", "conv", ("image",), like["conv"]),
        Node("relu1", "relu", ("conv1",)),
        Node("conv2", "conv", ("relu1",), like["conv"]),
        Node("relu2", "relu", ("conv2",)),
        Node("segment", "conv", ("relu2",), {**shift, "stride": 1}),
        Node("gap", "gap", ("relu2",)),
        Node("scores", "dense", ("gap",)),
        Node("embed", "dense", ("gap",)),
        Node("words", "tokens", ("segment",)),
    )
    outputs = {"scores": "scores", "embedding": "embed", "map": "segment", "words": "words"}
    return Network(
        "many", {"image": (3, 8, 10)}, nodes, weights, outputs, dict.fromkeys(outputs, "relu2"),
        ("relu2",), keyed=True,
    )  # fmt: skip


IMAGES = np.random.default_rng(6).random((3, 3, 8, 10), np.float32)


def expected_maps(network, cotangents):
    """Grad-CAM of the reference's activations and of its gradients of several outputs."""
    reference = Reference(network, IMAGES)
    a, g = reference.tensors["relu2"], reference.vjp(cotangents, "relu2")
    return np.maximum((g.mean((2, 3), keepdims=True) * a).sum(1), 0)


@pytest.mark.parametrize(
    ("target", "output"),
    [
        (gm.ClassDifference(1, 2), "scores"),
        (gm.MultiLabel([0, 2]), "scores"),
        (gm.Regression(unit=3), "scores"),
        (gm.RegionScore(1, np.eye(8, 10) > 0), "map"),
        (gm.RegionScore(2, output="map"), "map"),
        (gm.Similarity(np.arange(7.0)), "embedding"),
        (gm.Similarity(np.arange(7.0), output="embedding"), "embedding"),
        (gm.TokenLogProbability([2, 2], [3, 70]), "words"),
        (gm.FunctionScore(lambda z: (z**2).sum(), lambda z: 2 * z), "map"),
        (gm.FunctionScore(lambda z: np.log(np.cosh(z)).sum()), "embedding"),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, str) else x,
)
def test_the_map_is_that_of_the_scores_derivative(many, target, output):
    """The map against the reference's own backward pass from the score's numeric derivative."""
    named = getattr(target, "outputs", ())
    explainer = gm.Explainer(many, output=None if named else output)
    explanation = explainer(IMAGES, target)
    assert explanation.output == output
    assert explanation.layer == "relu2"
    rows = Reference(many, IMAGES).scores[output]
    cotangent = np.zeros_like(rows)
    for i, row in enumerate(rows):
        settled = explanation.targets[i]
        for index in np.ndindex(row.shape):
            ends = []
            for step in (1e-6, -1e-6):
                shifted = row.copy()
                shifted[index] += step
                ends.append(score_of(settled, {output: shifted}))
            cotangent[(i, *index)] = (ends[0] - ends[1]) / 2e-6
        assert explanation.scores[i] == pytest.approx(score_of(settled, {output: row}), rel=1e-5)
    close(explanation.cam, expected_maps(many, {output: cotangent}))
    # Items of a batch do not mix.
    for i in range(3):
        close(explainer(IMAGES[i : i + 1], target).cam[0], explanation.cam[i])


def score_of(target, logits):
    item = gm.Item(logits, size=(8, 10))
    if isinstance(target, gm.Target):
        return target.score(item[item.output], None)[0]
    return target.score_item(item)[0]


def test_a_target_over_two_outputs(many):
    def both(found):
        return float(found["scores"][0] + 2 * found["map"][1, 2, 3])

    target = gm.FunctionScore(both, outputs=("scores", "map"), name="both")
    explanation = gm.explain(many, IMAGES, target)
    assert explanation.output == "scores"
    assert [explanation.name(i) for i in range(3)] == ["both"] * 3
    scores, cells = np.zeros((3, 4)), np.zeros((3, 3, 8, 10))
    scores[:, 0], cells[:, 1, 2, 3] = 1, 2
    close(explanation.cam, expected_maps(many, {"scores": scores, "map": cells}))


def test_one_target_an_item_of_any_kind(many):
    targets = [2, gm.RegionScore(1, output="map"), gm.Similarity(np.ones(7), output="embedding")]
    explanation = gm.explain(many, IMAGES, targets, output="scores")
    assert explanation.classes == (2, 1, None)
    for i, target in enumerate(targets):
        alone = gm.explain(many, IMAGES[i : i + 1], target, output="scores")
        close(explanation.cam[i], alone.cam[0])
        assert explanation.scores[i] == pytest.approx(alone.scores[0], rel=1e-6)
    assert np.isnan(explanation.probabilities[1:]).all()
    assert 0 < explanation.probabilities[0] < 1
    with pytest.raises(TargetCountError, match="2 targets were given for 3 items"):
        gm.explain(many, IMAGES, targets[:2], output="scores")
    for wrong in ([targets], np.ones((3, 2)), [1.5] * 3):
        with pytest.raises(TargetError):
            gm.explain(many, IMAGES, wrong, output="scores")


def test_chunks_explain_one_layer_and_one_output(many):
    targets = [gm.RegionScore(0, output="map"), gm.RegionScore(1, output="map"), 2]
    for size in (None, 1, 2):
        explanation = gm.Explainer(many, output="scores", batch_size=size)(IMAGES, targets)
        assert explanation.output == "scores"
        assert explanation.logits.shape == (3, 4)


def test_an_explanation_of_no_class_is_whole(many, tmp_path):
    labels = ["sky", "tree", "road"]
    explanation = gm.explain(many, IMAGES, gm.RegionScore("tree", output="map"), labels=labels)
    assert explanation.classes == (1, 1, 1)
    cells = (Reference(many, IMAGES).scores["map"].argmax(1) == 1).sum((1, 2))
    assert explanation.name(0) == f"tree in {cells[0]} cells"
    record = explanation.records()[0]
    assert (record["class"], record["target"], record["probability"]) == (1, "RegionScore", None)
    assert explanation.save(tmp_path / "x.png").stat().st_size
    arrays = np.load(explanation.save(tmp_path / "x.npz"))
    assert arrays["classes"].tolist() == [1, 1, 1]
    none = gm.explain(many, IMAGES, gm.Similarity(np.ones(7), output="embedding", name="ones"))
    assert none.classes == (None,) * 3
    assert np.isnan(none.probabilities).all()
    assert none.records()[2]["label"] == "like ones"
    assert none.records()[2]["class"] is None
    both = gm.Explanation.concatenate([none[:1], none[1:]])
    np.testing.assert_array_equal(both.cam, none.cam)


def test_the_default_layer_is_that_of_the_outputs_that_a_target_names():
    network = NETWORKS["dict output"]()
    inputs = inputs_of(network, 2)["image"]
    explainer = gm.Explainer(network)
    side = gm.FunctionScore(lambda z: z["side"][0], lambda z: {"side": np.eye(5)[0]}, "side")
    assert explainer(inputs, 1).layer == "relu2"
    assert explainer(inputs, side).layer == "relu1"
    assert explainer(inputs, 1).layer == "relu2"  # the choice for one does not stick to the other
    both = gm.FunctionScore(lambda z: z["side"][0] + z["logits"][1], outputs=("side", "logits"))
    assert explainer(inputs, both).layer == "relu2"  # the last on the way to either
    assert [e.layer for e in explainer.several(inputs, [side, side])] == ["relu1"] * 2
    with pytest.raises(TargetError, match=r"'sides' was asked for; .* did you mean 'side'"):
        explainer(inputs, gm.FunctionScore(np.sum, outputs="sides"))


def test_a_derivative_that_is_not_finite_spoils_its_own_item_only():
    def odd(z):
        return np.sqrt(z[0] - threshold)

    network, inputs = probe_network(), probe_inputs(3)
    first = np.sort(Reference(network, inputs).logits[:, 0])
    threshold = (first[0] + first[1]) / 2
    with np.errstate(invalid="ignore"), pytest.warns(gm.CamWarning, match="1 of 3 maps: nonfinite"):
        explanation = gm.explain(network, inputs, gm.FunctionScore(odd))
    bad = Reference(network, inputs).logits[:, 0].argmin()
    assert [s == "nonfinite" for s in explanation.status] == [i == bad for i in range(3)]
    assert np.isfinite(explanation.heatmap).all()
    assert np.isnan(explanation.scores[bad])


def test_logits_at_any_scale_give_one_heatmap(many):
    """A similarity and measured derivatives have no absolute step or epsilon in them."""
    reference = None
    for scale in (1.0, 1e-6, 1e6):
        last = {k: v * np.float32(scale) for k, v in many.weights.items() if k.startswith("embed.")}
        network = Network(**{**vars(many), "weights": {**many.weights, **last}})
        for target in (
            gm.Similarity(np.arange(7.0)),
            gm.FunctionScore(lambda z: np.log(np.abs(z).sum())),
        ):
            found = gm.explain(network, IMAGES, target, output="embedding").heatmap
            if scale == 1.0:
                reference = {**(reference or {}), type(target): found}
            # Weights at 1e-6 and 1e6 are rounded anew, and so is each product.
            np.testing.assert_allclose(found, reference[type(target)], atol=1e-4)


# Which output is explained when none is named.

SHAPES = {
    "row": (None, 10), "row2": (None, 3), "map": (None, 3, 8, 8), "value": (None,), "unknown": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["map"], "map"),
        (["unknown"], "unknown"),
        (["map", "row"], "row"),
        (["value", "row", "map"], "row"),
        (["map", "unknown", "row"], "row"),
        (["row", "row2"], None),
        (["map", "value"], None),
        (["unknown", "value"], None),
    ],
)
def test_the_output_that_is_meant(names, expected):
    shapes = {name: SHAPES[name] for name in names}
    if expected is not None:
        assert chosen_output(None, shapes) == expected
        # A name says more than a shape.
        assert chosen_output(None, {**shapes, "out": (None, 4, 4, 4)}) == "out"
        assert chosen_output(None, {"out": None, **shapes, "logits": None}) == "logits"
        return
    with pytest.raises(TargetError, match=r"no output was named, .* with output=\.\.\.") as caught:
        chosen_output(None, shapes)
    for name in names:
        shown = str(SHAPES[name] or "").replace("None", "N")
        assert f"{name} {shown}".strip() in str(caught.value)


def test_in_a_tuple_the_first_row_is_meant():
    assert chosen_output(None, {"0": (None, 4), "1": (None, 4)}) == "0"
    assert chosen_output(None, {"0": (None, 3, 8, 8), "1": (None, 4), "2": (None, 2)}) == "1"
    with pytest.raises(TargetError, match="say which to explain"):
        chosen_output(None, {"0": (None, 3, 8, 8), "1": (None, 3, 4, 4)})


def test_a_model_of_many_outputs_asks_for_one(many):
    with pytest.raises(TargetError, match=r"scores \(N, 4\), embedding \(N, 7\), map"):
        gm.explain(many, IMAGES)
    with pytest.raises(TargetError, match=r"map: .*\(3, 3, 8, 10\).*RegionScore|'map' has the"):
        gm.explain(many, IMAGES, 1, output="map")


# Probabilities whose logits are out of reach.


def sharpened(factor):
    """The probe behind a softmax, its logits multiplied."""
    return probe_network(softmax=True, scale=factor)


def test_a_sure_softmax_out_of_reach_is_warned_of(monkeypatch):
    network, inputs = sharpened(60.0), probe_inputs(2)
    seen = gm.explain(network, inputs)  # the adapter reaches the logits: nothing to warn of
    assert (seen.probabilities > 0.99).all()
    assert not seen.saturated.any()
    hide(monkeypatch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # underflow may also leave a poor map: a warning of its own
        hidden = gm.explain(network, inputs)
    assert hidden.saturated.all()
    np.testing.assert_allclose(hidden.probabilities, seen.probabilities, rtol=1e-6)  # not of these
    told = [str(w.message) for w in caught if "0.99" in str(w.message)]
    assert len(told) == 1
    assert told[0].startswith("2 of 2 items: the model returns probabilities")
    assert told[0].endswith("hand over the model as it is before its softmax")
    assert issubclass(caught[0].category, gm.CamWarning)


def test_an_unsure_softmax_or_another_class_is_not_warned_of(monkeypatch):
    hide(monkeypatch)
    network, inputs = sharpened(0.5), probe_inputs(2)
    found = gm.explain(network, inputs)
    assert not found.saturated.any()
    assert not gm.explain(network, inputs, gm.Regression(unit=1)).saturated.any()


def hide(monkeypatch):
    """Take from the NumPy adapter its sight of a final softmax."""

    class Blind(NumpyTrace):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.logits = self.outputs

        def vjp(self, cotangents):
            pulled = {}
            for name, g in cotangents.items():
                p = self.outputs[name].astype(np.float64)
                pulled[name] = p * (g - (g * p).sum(-1, keepdims=True))
            return super().vjp(pulled)

    original = NumpyModel.__init__

    def blind(self, module):
        original(self, module)
        self.outputs = tuple(replace(spec, activation=None) for spec in self.outputs)

    monkeypatch.setattr(NumpyModel, "trace_class", Blind)
    monkeypatch.setattr(NumpyModel, "__init__", blind)


def test_a_batch_is_scored_as_its_items_are():
    rng = np.random.default_rng(7)
    logits = {"a": rng.normal(size=(4, 5)).astype("f4"), "b": rng.normal(size=(4, 6)).astype("f4")}
    targets = [1, gm.Probability(2), None, gm.Similarity(np.arange(6.0), output="b")]
    scored = score_batch([as_targets(t, 1)[0] for t in targets], logits, "a")
    assert not scored.cotangents["b"][:3].any()
    assert not scored.cotangents["a"][3].any()
    assert scored.finite.all()
    assert scored.scores[2] == logits["a"][2].max()


def test_resolved_targets_are_scored_on_what_other_inputs_give():
    rng = np.random.default_rng(8)
    logits = {
        "a": rng.normal(size=(2, 5)).astype("f4"),
        "boxes": np.tile(np.array([[0, 0, 4, 4], [8, 8, 12, 12]], "f4"), (2, 1, 1)),
        "scores": rng.normal(size=(2, 2, 3)).astype("f4"),
    }
    heads = gm.BoxHead("scores", "boxes")
    targets = [None, gm.BoxScore((0, 0, 4, 4), heads=heads)]
    first = score_batch([as_targets(t, 1)[0] for t in targets], logits, "a")
    moved = {**logits, "a": -logits["a"], "boxes": logits["boxes"] + 100}
    again = score_batch(first.targets, moved, "a", resolve=False)
    assert again.targets == first.targets
    assert again.scores.tolist() == [-first.scores[0], 0]  # the same class; no proposal is left
    with pytest.raises(TargetError, match="closest of 2 proposals"):
        score_batch(first.targets, moved, "a")


def test_maps_of_a_class_difference_are_differences_of_gradients():
    network, inputs = probe_network(), probe_inputs(2)
    explainer = gm.Explainer(network, method="hirescam")
    difference = explainer(inputs, gm.ClassDifference(3, [1, 2]))
    reference = Reference(network, inputs)
    cotangent = np.tile([0.0, -0.5, -0.5, 1.0, 0.0], (2, 1))
    cam, _ = raw_maps(
        reference.tensors["relu2"].astype(np.float32),
        reference.vjp(cotangent, "relu2").astype(np.float32),
        method_named("hirescam"),
    )
    close(difference.cam, cam)
    assert difference.name(0) == "class 3, not class 1 or class 2"
