"""The plan and its execution on the NumPy adapter, through the public interface."""

import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.errors import UnknownBackendError, UnknownModelError
from gradcam_multi.notices import silent
from gradcam_multi.testing import Reference, probe_inputs, probe_network


@pytest.fixture
def explanation():
    return gm.explain(probe_network(softmax=True), probe_inputs(3), [0, 1, 2], labels=list("abcde"))


def test_several_targets_share_one_run():
    explainer = gm.Explainer(probe_network())
    inputs = probe_inputs(2)
    ranked = explainer.several(inputs, [gm.TopClass(rank) for rank in range(5)])
    for item in range(2):
        order = Reference(probe_network(), inputs).logits[item].argsort()[::-1]
        assert [explanation.classes[item] for explanation in ranked] == list(order)
    single = explainer(inputs, ranked[1].targets)
    np.testing.assert_array_equal(single.cam, ranked[1].cam)


def test_another_layer_or_output_set_on_an_explainer_counts_from_the_next_call():
    explainer, inputs = gm.Explainer(probe_network()), probe_inputs(2)
    assert explainer(inputs, 0).layer == "relu2"
    explainer.layer = "relu1"
    np.testing.assert_array_equal(
        explainer(inputs, 0).cam, gm.explain(probe_network(), inputs, 0, layer="relu1").cam
    )
    explainer.layer, explainer.output = None, "score"
    with pytest.raises(gm.TargetError, match="output 'score' was asked for"):
        explainer(inputs, 0)


def test_explanation_says_what_was_used(explanation):
    assert (explanation.layer, explanation.method, explanation.backend) == (
        "relu2",
        "gradcam",
        "numpy",
    )
    assert explanation.output == "scores"
    assert explanation.classes == (0, 1, 2)
    assert [explanation.name(i) for i in range(3)] == ["a", "b", "c"]
    assert explanation.outputs.shape == (3, 5)
    np.testing.assert_allclose(explanation.outputs.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(
        explanation.probabilities, explanation.outputs[range(3), range(3)], atol=1e-6
    )
    np.testing.assert_allclose(
        explanation.scores, explanation.logits[range(3), range(3)], atol=1e-6
    )
    assert explanation.heatmap.shape == (3, 16, 16)


def test_indexing_gives_a_part(explanation):
    assert len(explanation) == 3
    last = explanation[-1]
    assert last.classes == (2,)
    np.testing.assert_array_equal(last.cam, explanation.cam[2:])
    assert [part.classes for part in explanation] == [(0,), (1,), (2,)]
    assert explanation[:2].status == explanation.status[:2]
    joined = gm.Explanation.concatenate([explanation[:1], explanation[1:]])
    np.testing.assert_array_equal(joined.cam, explanation.cam)
    with pytest.raises(IndexError):
        explanation[3]


def test_saved_forms_hold_the_numbers(explanation, tmp_path):
    arrays = np.load(explanation.save(tmp_path / "x.npz"))
    np.testing.assert_array_equal(arrays["cam"], explanation.cam)
    np.testing.assert_array_equal(arrays["heatmap"], explanation.heatmap)
    assert list(arrays["status"]) == list(explanation.status)
    records = json.loads(explanation.save(tmp_path / "x.json").read_text())
    assert [record["label"] for record in records] == ["a", "b", "c"]
    np.testing.assert_allclose(records[1]["cam"], explanation.cam[1], rtol=1e-6)
    row, column = records[2]["peak"]
    assert explanation.heatmap[2, row, column] == explanation.heatmap[2].max()
    with Image.open(explanation.save(tmp_path / "x.png")) as picture:
        assert picture.size[1] > 3 * 200  # three rows of a panel
    assert explanation._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"'x.gif': the endings are"):
        explanation.save(tmp_path / "x.gif")


def test_overlay_is_of_the_pictures_size_and_follows_the_heatmap(explanation):
    images = np.full((3, 97, 203, 3), 128, np.uint8)
    overlaid = explanation.overlay(images)
    assert overlaid.shape == images.shape
    assert overlaid.dtype == np.uint8
    assert (images == 128).all()
    heat = explanation.heatmaps_on((97, 203))
    high, low = heat[0].argmax(), heat[0].argmin()
    flat = overlaid[0].reshape(-1, 3).astype(int)
    assert flat[high].sum() != flat[low].sum()
    with pytest.raises(gm.ImageError, match="3 pictures as"):
        explanation.overlay(images[:2])
    with pytest.raises(gm.ImageError, match="float"):
        explanation.overlay(images / 255)


def test_outside_of_a_crop_nothing_is_claimed(explanation):
    geometry = gm.Geometry((40, 60), (0.0, 10.0, 40.0, 50.0))
    heat = explanation[0].heatmaps_on((40, 60), geometry)[0]
    assert np.isnan(heat[:, :10]).all()
    assert np.isnan(heat[:, 50:]).all()
    inside = heat[:, 10:50]
    assert inside.min() == 0
    assert inside.max() == 1


def test_layers_marks_the_default():
    listed = gm.layers(probe_network())
    assert listed.default.name == "relu2"
    assert [layer.name for layer in listed] == [layer.name for layer in probe_network().layers]


@pytest.mark.parametrize(
    ("inputs", "found"),
    [(np.zeros((0, 3, 16, 16)), r"\(0, 3, 16, 16\)"), (np.float32(1), r"\(\)"), ((), "none"),
     ((np.zeros((2, 3)), np.zeros((3, 3))), r"\(2, 3\), \(3, 3\)")],
)  # fmt: skip
def test_inputs_without_a_batch(inputs, found):
    with pytest.raises(gm.InputError, match=f"inputs of the shapes {found} were given"):
        gm.explain(probe_network(), inputs)


def test_what_is_asked_wrongly():
    network, inputs = probe_network(), probe_inputs(2)
    with pytest.raises(gm.InputError, match=r"'photo\.jpg' is a path: read it with load_image"):
        gm.explain(network, "photo.jpg")
    with pytest.raises(gm.MethodError, match="did you mean 'gradcam'"):
        gm.explain(network, inputs, method="grad-cam")
    with pytest.raises(
        gm.TargetError, match="output 'score' was asked for; the model returns scores"
    ):
        gm.explain(network, inputs, output="score")
    with pytest.raises(gm.LayerError, match="a map needs a layer with a grid"):
        gm.explain(network, inputs, layer="gap")
    with pytest.raises(UnknownBackendError, match="no backend is called 'nmpy'"):
        gm.explain(network, inputs, backend="nmpy")
    with pytest.raises(UnknownModelError, match="cannot open a dict"):
        gm.explain({}, inputs)
    with pytest.raises(gm.InputError, match="batch_size 0"):
        gm.Explainer(network, batch_size=0)


def test_poor_maps_warn_once_a_kind_and_good_ones_not_at_all():
    inputs = probe_inputs(3)
    with pytest.warns(gm.CamWarning) as caught:
        gm.explain(probe_network(dense="zero"), inputs, 1)
    assert len(caught) == 1
    assert "3 of 3 maps: zero_gradient" in str(caught[0].message)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gm.explain(probe_network(), inputs, 2)


def test_a_thread_that_is_silent_leaves_the_others_their_warnings():
    network, inputs = probe_network(dense="zero"), probe_inputs(1)
    entered, done = threading.Event(), threading.Event()

    def quietly():
        with silent():
            gm.explain(network, inputs, 1)
            entered.set()
            assert done.wait(10)
            gm.explain(network, inputs, 1)

    with warnings.catch_warnings(record=True) as caught, ThreadPoolExecutor(1) as pool:
        warnings.simplefilter("always")
        other = pool.submit(quietly)
        assert entered.wait(10)
        assert not caught
        gm.explain(network, inputs, 1)
        done.set()
        other.result()
    assert [each.category for each in caught] == [gm.CamWarning]


def test_probabilities_behind_a_logarithm(explanation):
    """A model that ends in log-softmax returns logarithms: the logits tell the probabilities."""
    fields = {**vars(explanation), "outputs": np.log(explanation.outputs)}
    fields = {name: fields[name] for name in explanation.__dataclass_fields__}
    logarithms = gm.Explanation(**fields)
    np.testing.assert_allclose(logarithms.probabilities, explanation.probabilities, atol=1e-6)
