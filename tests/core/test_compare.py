"""Comparisons of NumPy models: each figure against the explanations that it is made of."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.agreement import Field, agree
from gradcam_multi.comparer import Comparer
from gradcam_multi.comparison import Limits
from gradcam_multi.drift_panel import drift_panel, heatmap_on
from gradcam_multi.errors import ImageError, InputError, LayerError, PreprocessError, TargetError
from gradcam_multi.pair import FIGURES
from gradcam_multi.testing.reference import probe_network

RNG = np.random.default_rng(3)
X = RNG.normal(size=(5, 3, 16, 16)).astype(np.float32)
PICTURES = [RNG.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(3)]


def moved(network, by=0.3):
    weights = dict(network.weights)
    weights["conv2.weight"] = weights["conv2.weight"] + by * RNG.normal(size=(8, 6, 3, 3))
    return replace(network, weights=weights)


REFERENCE = probe_network()
OTHER = moved(REFERENCE)


def test_a_model_against_itself_agrees_exactly():
    found = gm.compare(REFERENCE, REFERENCE, X)
    assert found.passed
    assert not found.failures
    assert [pair.drift for pair in found.pairs] == [0.0] * 5
    assert {pair.agreement.pearson for pair in found.pairs} == {1.0}
    assert "passed: max_drift 0.05" in str(found)


def test_figures_are_those_of_the_explanations():
    found = gm.compare(REFERENCE, [OTHER, REFERENCE], X, names=["a", "b", "c"])
    own = gm.explain(REFERENCE, X)
    other = gm.explain(OTHER, X, list(own.targets))
    whole = Field((0.0, 0.0), (16.0, 16.0))
    pairs = found.of("b")
    assert len(pairs) == len(found.of("c")) == 5
    for i, pair in enumerate(pairs):
        assert pair.target == own.classes[i]
        assert pair.top1 == (own.logits[i].argmax(), other.logits[i].argmax())
        assert pair.scores == (own.scores[i], other.scores[i])
        assert pair.value("score_difference") == other.scores[i] - own.scores[i]
        difference = other.probabilities[i] - own.probabilities[i]
        assert pair.value("probability_difference") == difference
        assert pair.agreement == agree(own.cam[i], other.cam[i], (16, 16), (whole, whole))
        assert pair.agreement.raw
    assert found.worst is max(pairs, key=lambda pair: pair.drift)
    assert found.ranked()[0] is found.worst


def test_the_summary_is_over_all_images():
    found = gm.compare(REFERENCE, OTHER, X)
    (entry,) = found.report()["others"]
    for figure in FIGURES:
        values = [pair.value(figure.name) for pair in found.pairs]
        summed = entry["summary"][figure.name]
        assert summed["min"] == min(values)
        assert summed["max"] == max(values)
        assert summed["mean"] == pytest.approx(np.mean(values))
        badness = [figure.badness(value) for value in values]
        assert summed["worst"] == values[int(np.argmax(badness))]
        assert summed["worst_image"] == f"item {int(np.argmax(badness))}"
    agreeing = [pair.top1[0] == pair.top1[1] for pair in found.pairs]
    assert entry["top1_agreement"] == np.mean(agreeing)


def test_limits_make_the_verdict():
    loose = gm.compare(REFERENCE, OTHER, X, max_drift=None)
    assert loose.passed
    worst = loose.worst
    assert not gm.compare(REFERENCE, OTHER, X, max_drift=worst.drift * 0.99).passed
    assert gm.compare(REFERENCE, OTHER, X, max_drift=worst.drift).passed
    least = min(pair.agreement.pearson for pair in loose.pairs)
    kwargs = {"max_drift": None}
    assert gm.compare(REFERENCE, OTHER, X, min_correlation=least, **kwargs).passed
    failed = gm.compare(REFERENCE, OTHER, X, min_correlation=least + 1e-6, **kwargs)
    assert "pearson" in failed.failures[0]
    assert "FAILED" in str(failed)
    assert failed.failures[0] in str(failed)
    different = gm.compare(REFERENCE, probe_network(seed=1), X, min_agreement=1.0, **kwargs)
    assert "top class" in different.failures[0]
    for limits in ({"max_drift": 5}, {"min_agreement": 95}, {"min_correlation": -2}):
        with pytest.raises(InputError, match="give a number from"):
            Limits(**limits)


def test_the_unit_of_the_score_is_no_drift():
    scaled = probe_network(scale=100.0)
    found = gm.compare(REFERENCE, scaled, X)
    assert found.passed
    assert found.worst.drift < 1e-6  # float32 rounding of gradients
    assert found.pairs[0].agreement.map_difference == pytest.approx(99, rel=1e-3)


def test_maps_that_say_nothing_prove_nothing():
    blank = probe_network(dense="zero")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the pairs say it, no warning does
        both = gm.compare(blank, blank, X)
        one = gm.compare(REFERENCE, blank, X)
    assert {pair.agreement.status for pair in both.pairs} == {"flat"}
    assert not both.passed
    assert "nothing was compared" in both.failures[0]
    (entry,) = both.report()["others"]
    assert entry["compared"] == 0
    assert entry["summary"]["drift"] is None
    assert {pair.agreement.status for pair in one.pairs} == {"one_flat"}
    assert one.worst.drift == 1
    assert "one_flat (ok, zero_gradient)" in str(one)


def test_nan_is_the_worst_and_never_printed():
    x = X.copy()
    x[1, 0, 3, 3] = np.nan
    found = gm.compare(REFERENCE, REFERENCE, x)
    assert [pair.agreement.status for pair in found.pairs].count("nonfinite") == 1
    assert not found.passed
    text = found.to_json()
    assert "NaN" not in text
    record = json.loads(text)["others"][0]["images"][1]
    assert record["scores"] == [None, None]
    assert record["score_difference"] is None
    assert record["drift"] == 1.0


def test_the_json_report_has_these_keys():
    report = json.loads(gm.compare(REFERENCE, OTHER, X, method="layercam").to_json())
    assert set(report) == {
        "schema", "version", "method", "limits", "passed", "failures", "reference", "others",
        "skipped",
    }  # fmt: skip
    assert report["schema"] == 1
    assert report["method"] == "layercam"
    (other,) = report["others"]
    assert set(other) == {
        "name", "backend", "layer", "grid", "input_size", "raw", "passed", "compared",
        "top1_agreement", "summary", "images",
    }  # fmt: skip
    assert set(other["images"][0]) == {
        "image", "target", "label", "top1", "top1_agrees", "scores", "probabilities", "statuses",
        "status", "raw", *(figure.name for figure in FIGURES),
    }  # fmt: skip
    assert other["grid"] == [8, 8]
    assert other["input_size"] == [16, 16]


def test_every_figure_and_key_is_described():
    described = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    report = gm.compare(REFERENCE, OTHER, X).report()
    (other,) = report["others"]
    for key in {*report, *other, *other["images"][0]}:
        assert f"`{key}`" in described, key
    for figure in FIGURES:
        assert f"| {figure.heading} | `{figure.name}` |" in described


def test_targets_and_layers():
    found = gm.compare(REFERENCE, OTHER, X, 2, layer=["relu2", "conv2"], labels=list("abcde"))
    assert {pair.target for pair in found.pairs} == {2}
    assert {pair.label for pair in found.pairs} == {"c"}
    assert (found.reference.layer, found.others[0].layer) == ("relu2", "conv2")
    maps = gm.explain(OTHER, X, 2, layer="conv2").cam
    assert np.array_equal(found.pairs[0].maps.cams[1], maps[0])
    fine = gm.compare(REFERENCE, REFERENCE, X, layer=["relu2", "relu1"])
    assert fine.others[0].grid == (16, 16)
    assert fine.others[0].raw is False
    assert "resized to the reference's input, 16x16" in str(fine)


def test_pictures_go_through_each_models_own_input():
    small, large = REFERENCE, replace(REFERENCE, input_size=(24, 32))
    crop = gm.Preprocess(fit="crop", crop_ratio=0.5)
    found = gm.compare(small, large, PICTURES, preprocess=[gm.Preprocess(), crop])
    assert (found.reference.input_size, found.others[0].input_size) == ((16, 16), (24, 32))
    assert found.others[0].raw is False
    for i, picture in enumerate(PICTURES):
        array, geometry = gm.Preprocess().apply(picture, size=(16, 16))
        own = gm.explain(small, array[None])
        array, cropped = crop.apply(picture, size=(24, 32))
        other = gm.explain(large, array[None], list(own.targets))
        assert np.array_equal(found.pairs[i].maps.cams[1], other.cam[0])
        assert found.pairs[i].maps.geometries == (geometry, cropped)
        top, left, bottom, right = cropped.box  # in the picture of 40 x 60, the input is of 16 x 16
        scaled = Field((top * 16 / 40, left * 16 / 60), (bottom * 16 / 40, right * 16 / 60))
        whole = Field((0.0, 0.0), (16.0, 16.0))
        expected = agree(own.cam[0], other.cam[0], (16, 16), (whole, scaled))
        assert found.pairs[i].agreement.drift == pytest.approx(expected.drift, abs=1e-6)
        assert found.pairs[i].agreement.peak_shift == pytest.approx(expected.peak_shift)


def test_pictures_by_path_keep_their_names(tmp_path):
    for i, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    paths = sorted(tmp_path.iterdir())
    found = gm.compare(REFERENCE, OTHER, paths, preprocess="unit")
    assert [pair.image for pair in found.pairs] == [str(path) for path in paths]
    arrays = gm.compare(REFERENCE, OTHER, PICTURES, preprocess="unit")
    assert [pair.drift for pair in arrays.pairs] == [pair.drift for pair in found.pairs]
    assert "0.png" in str(found)
    assert str(tmp_path) not in str(found).split("FAILED")[0]


def test_many_pictures_go_in_batches_and_the_table_shows_the_worst():
    pictures = [RNG.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(21)]
    found = gm.compare(REFERENCE, OTHER, pictures, preprocess="unit")
    assert len(found.pairs) == 21
    assert [pair.index for pair in found.pairs] == list(range(21))
    assert "the 20 worst of 21 images" in str(found)
    left_out = min(found.pairs, key=lambda pair: pair.drift)
    assert f"{left_out.image} " not in str(found)
    alone = gm.compare(REFERENCE, OTHER, [pictures[20]], preprocess="unit")
    # The same item in another batch: another order of summation in float32.
    assert found.pairs[20].drift == pytest.approx(alone.pairs[0].drift, abs=1e-5)


def test_what_is_asked_wrongly():
    fewer = replace(
        REFERENCE,
        weights={
            name: w[:4] if name.startswith("logits") else w for name, w in REFERENCE.weights.items()
        },
    )
    with pytest.raises(TargetError, match="DemoNetwork has 5 classes, DemoNetwork #2 4"):
        gm.compare(REFERENCE, fewer, X)
    with pytest.raises(InputError, match="2 of layer were given for 3 models"):
        gm.compare(REFERENCE, [OTHER, OTHER], X, layer=["relu2", "relu1"])
    with pytest.raises(InputError, match="give each model the same images"):
        gm.compare(REFERENCE, OTHER, X, other_inputs=[X[:3]])
    with pytest.raises(InputError, match="at least one other"):
        gm.compare(REFERENCE, [], X)
    with pytest.raises(LayerError, match="relu9"):
        gm.compare(REFERENCE, OTHER, X, layer=["relu2", "relu9"])
    with pytest.raises(PreprocessError, match="1 channels, DemoNetwork takes 3"):
        gm.compare(REFERENCE, OTHER, PICTURES, preprocess=gm.Preprocess(channels="L"))
    with pytest.raises(InputError, match="no image was compared"):
        Comparer([REFERENCE, OTHER]).result(Limits())


def test_each_model_may_have_its_own_batch():
    flipped = X[..., ::-1].copy()
    found = gm.compare(REFERENCE, REFERENCE, X, other_inputs=[flipped], max_drift=None)
    own = gm.explain(REFERENCE, X)
    other = gm.explain(REFERENCE, flipped, list(own.targets))
    assert np.array_equal(found.pairs[2].maps.cams[1], other.cam[2])


def test_each_model_may_name_its_output():
    named = gm.compare(REFERENCE, OTHER, X, output=["scores", None])
    assert [pair.drift for pair in named.pairs] == [
        pair.drift for pair in gm.compare(REFERENCE, OTHER, X).pairs
    ]
    with pytest.raises(TargetError, match="boxes"):
        gm.compare(REFERENCE, OTHER, X, output=["scores", "boxes"])


def test_the_panel_shows_both_maps_and_their_difference(tmp_path):
    found = gm.compare(REFERENCE, OTHER, PICTURES, preprocess="unit")
    images = {f"item {i}": picture for i, picture in enumerate(PICTURES)}
    pair = found.worst
    sheet = drift_panel(found, images, [pair], height=80)
    wider = found.to_pil(images, height=80)
    assert wider.height >= sheet.height + 2 * 80  # a row for each of the three
    assert sheet.width > 4 * 80
    picture = images[pair.image]
    array, geometry = gm.Preprocess.named("unit").apply(picture, size=(16, 16))
    for model, cam in zip((REFERENCE, OTHER), pair.maps.cams, strict=True):
        explanation = gm.explain(model, array[None], pair.target)
        expected = explanation.heatmaps_on(picture.shape[:2], geometry)[0]
        # The whole batch and the item alone differ by float32 rounding.
        np.testing.assert_allclose(
            heatmap_on(picture.shape[:2], cam, geometry), expected, rtol=0, atol=1e-4
        )
    with pytest.raises(ImageError, match="no picture is given"):
        found.to_pil({})


def test_a_heatmap_is_nan_where_the_model_did_not_look():
    cam = RNG.random((4, 4)).astype(np.float32)
    geometry = gm.Geometry((20, 30), (0.0, 5.0, 20.0, 25.0))
    heatmap = heatmap_on((20, 30), cam, geometry)
    assert np.isnan(heatmap[:, :5]).all()
    assert np.isnan(heatmap[:, 25:]).all()
    assert np.nanmin(heatmap) == 0
    assert np.nanmax(heatmap) == 1
    with pytest.raises(ImageError, match="3 spatial axes"):
        heatmap_on((20, 30), np.zeros((2, 2, 2), np.float32), None)
