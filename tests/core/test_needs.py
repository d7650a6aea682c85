"""What users of such libraries stumble over, as far as the core answers for it; numbers are those
of the list of needs. Adapters answer for theirs in tests/<framework>/test_needs.py and in the kit.
"""

import numpy as np
import pytest
from numpy_adapter import NumpyModel

import gradcam_multi as gm
from gradcam_multi.cam import GRADIENT_METHODS, method_named, raw_maps, rescale
from gradcam_multi.errors import GradcamError
from gradcam_multi.resize import resize
from gradcam_multi.testing import Reference, probe_inputs, probe_network


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_need_02_a_map_is_never_nan_and_never_silently_blank(method):
    broken = probe_inputs(2)
    broken[0] = np.inf
    cases = {
        "zero_gradient": (probe_network(dense="zero"), probe_inputs(2), 2),
        "nonfinite": (probe_network(), broken, 1),
    }
    if method in ("gradcam", "hirescam", "xgradcam"):  # those with a sign before the ReLU
        cases["all_negative"] = (probe_network(dense="negative"), probe_inputs(2), 2)
    for status, (network, inputs, count) in cases.items():
        with pytest.warns(gm.CamWarning, match=f"{count} of 2 maps: {status}: .*;"):
            explanation = gm.explain(network, inputs, 1, method=method)
        assert explanation.status.count(status) == count
        assert np.isfinite(explanation.heatmap).all()
        blank = [item for item, found in enumerate(explanation.status) if found == status]
        assert not explanation.heatmap[blank].any()  # no contrast is invented from a flat map


@pytest.mark.parametrize("grid", [(11,), (5, 7), (3, 4, 5)])
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_need_05_any_number_of_spatial_axes(method, grid):
    """Axes of one cell change nothing, and neither does their order: 1-D, 2-D and 3-D are one."""
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(2, 6, *grid)).astype(np.float32)
    gradients = rng.normal(size=(2, 6, *grid)).astype(np.float32)
    cam, status = raw_maps(activations, gradients, method_named(method))
    assert cam.shape == (2, *grid)
    assert status == ("ok", "ok")
    flat, _ = raw_maps(
        activations.reshape(2, 6, -1), gradients.reshape(2, 6, -1), method_named(method)
    )
    # Sums over space in another order: a few float32 roundings.
    np.testing.assert_allclose(cam.reshape(2, -1), flat, rtol=0, atol=1e-5 * np.abs(flat).max())
    turned = tuple(reversed(range(2, 2 + len(grid))))
    swapped, _ = raw_maps(
        activations.transpose(0, 1, *turned), gradients.transpose(0, 1, *turned),
        method_named(method),
    )  # fmt: skip
    np.testing.assert_allclose(
        swapped.transpose(0, *(axis - 1 for axis in turned)), cam, rtol=0,
        atol=1e-5 * np.abs(cam).max(),
    )  # fmt: skip
    heatmap = rescale(resize(cam, tuple(3 * n for n in grid)))
    assert heatmap.shape == (2, *(3 * n for n in grid))
    assert (heatmap.min(), heatmap.max()) == (0, 1)


def test_need_09_the_score_is_the_logit_before_a_final_softmax():
    inputs = probe_inputs(3)
    plain, ending = probe_network(), probe_network(softmax=True)
    before, behind = gm.explain(plain, inputs, 2), gm.explain(ending, inputs, 2)
    np.testing.assert_array_equal(behind.cam, before.cam)
    np.testing.assert_array_equal(behind.scores, before.scores)
    np.testing.assert_allclose(behind.outputs.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(behind.probabilities, before.probabilities, atol=1e-6)
    assert [layer.name for layer in ending.layers][-1] == "probabilities"  # the model is not edited
    # The probability can be asked for by name.
    explanation = gm.explain(ending, inputs, gm.Probability(3))
    p = gm.explain(plain, inputs, 3).probabilities
    np.testing.assert_allclose(explanation.scores, p, atol=1e-6)


def test_need_10_targets_are_one_for_all_or_one_an_item():
    explainer, inputs = gm.Explainer(probe_network()), probe_inputs(3)
    whole = explainer(inputs, [0, 1, 2])
    for item, explanation in enumerate(whole):
        np.testing.assert_allclose(
            explanation.cam, explainer(inputs[[item]], item).cam, rtol=0, atol=1e-6
        )
    same = explainer(inputs, 1)
    np.testing.assert_array_equal(same.cam, explainer(inputs, [1, 1, 1]).cam)
    assert np.abs(whole.cam[1:] - same.cam[1:]).max() > 0.01  # targets do matter
    for wrong in ([0], [0, 1], [0, 1, 2, 3]):
        with pytest.raises(gm.TargetError, match=f"{len(wrong)} targets? .* 3 items"):
            explainer(inputs, wrong)


def test_need_12_the_choice_of_the_layer_is_reported():
    listed = gm.layers(probe_network())
    assert [(layer.name, layer.grid) for layer in listed.spatial] == [
        ("conv1", (16, 16)), ("relu1", (16, 16)), ("pool1", (8, 8)), ("conv2", (8, 8)),
        ("relu2", (8, 8)),
    ]  # fmt: skip
    assert gm.explain(probe_network(), probe_inputs(1), 2).layer == listed.default.name == "relu2"
    assert str(listed).count("*") == 1


@pytest.mark.parametrize("shape", [(97, 203), (203, 97), (16, 16)])
@pytest.mark.parametrize("preset", ["unit", "imagenet"])
def test_need_15_the_map_lines_up_with_the_picture(shape, preset):
    """A score that is the brightness under one window must light up that window of the picture."""
    row, column = shape[0] // 2 - 4, shape[1] // 2 + 3  # within the centre crop
    image = np.zeros((*shape, 3), np.uint8)
    image[row - 3 : row + 4, column - 3 : column + 4] = 255
    array, geometry = gm.Preprocess.named(preset).apply(image, size=(64, 64))
    cam = np.maximum(array[:1] - array.min(), 0)  # the brightness itself, on the input's own grid
    on_picture = geometry.restore(cam)[0]
    assert on_picture.shape == shape
    peak = np.argwhere(on_picture == on_picture.max()).mean(0)
    # Half a cell of the 64x64 input, in pixels of the picture.
    assert np.abs(peak - (row, column)).max() <= 0.5 * max(shape) / 64 + 0.5


def test_need_24_errors_name_cause_and_cure_in_one_line():
    network, inputs = probe_network(), probe_inputs(2)
    mistakes = [
        lambda: gm.explain(network, inputs, layer="relu3"),
        lambda: gm.explain(network, inputs, method="grad"),
        lambda: gm.explain(network, inputs, 99),
        lambda: gm.explain(network, inputs, "a"),
        lambda: gm.explain(network, inputs, [1, 2, 3]),
        lambda: gm.explain(network, inputs[:, :2]),
        lambda: gm.explain(network, inputs, output="x"),
        lambda: gm.explain(object(), inputs),
        lambda: gm.explain(network, inputs, backend="x"),
        lambda: gm.explain("absent.h6", inputs),
        lambda: gm.load_image("absent.jpg"),
    ]
    for mistake in mistakes:
        with pytest.raises(GradcamError) as raised:
            mistake()
        message = str(raised.value)
        assert "\n" not in message
        assert len(message) > 30
        # Each also is what a caller would catch who knows nothing of this library.
        assert isinstance(raised.value, ValueError | TypeError | ImportError)


def test_need_24_an_error_of_the_model_is_never_swallowed(monkeypatch):
    def broken(self, inputs, layers):
        raise ZeroDivisionError("the model's own fault")

    monkeypatch.setattr(NumpyModel, "trace", broken)
    with pytest.raises(ZeroDivisionError, match="own fault"):
        gm.explain(probe_network(), probe_inputs(1))


def test_need_09_a_network_without_softmax_gives_its_scores_as_they_are():
    inputs = probe_inputs(2)
    explanation = gm.explain(probe_network(), inputs, 3)
    np.testing.assert_allclose(
        explanation.scores, Reference(probe_network(), inputs).logits[:, 3], rtol=1e-6
    )
