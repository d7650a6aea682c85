"""The methods against four-loop references, a hand-computed network, and broken input."""

import json
from pathlib import Path

import numpy as np
import pytest
from cam_references import OF_ACTIVATIONS, OF_AFFINE, OF_PROBES, principal, slow_eigengradcam
from full_gradient_references import OF_BIASES
from input_gradient_references import OF_INPUTS
from legrad_references import OF_TOKENS

from gradcam_multi.cam import (
    GRADIENT_METHODS,
    METHODS,
    heatmaps,
    method_named,
    raw_maps,
    rescale,
)
from gradcam_multi.errors import MethodError
from gradcam_multi.resize import resize

# float32 sums of up to 35 terms of magnitude about 1.
TOLERANCE = 1e-5
GRIDS = [(7,), (5, 7), (2, 3, 4)]


def relu(x):
    return max(x, 0.0)


def cells(grid):
    return list(np.ndindex(*grid))


def slow_gradcam(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        weight = sum(g[(k, *p)] for p in cells(a.shape[1:])) / g[k].size
        for p in cells(a.shape[1:]):
            out[p] += weight * a[(k, *p)]
    return np.vectorize(relu)(out)


def slow_gradcam_plus_plus(a, g):
    out = np.zeros(a.shape[1:])
    largest = np.abs(g).max()
    for k in range(len(a)):
        weight = 0.0
        for p in cells(a.shape[1:]):
            u = g[(k, *p)] / largest if largest else 0.0
            alpha = u**2 / (2 * u**2 + u**3 * a[k].sum()) if u else 0.0
            weight += alpha * relu(u) * largest
        for p in cells(a.shape[1:]):
            out[p] += weight * a[(k, *p)]
    return np.vectorize(relu)(out)


def slow_gradcam_plus_plus_official(a, g):
    """The authors' program: alphas over the sum of those whose gradient is positive."""
    out = np.zeros(a.shape[1:])
    largest = np.abs(g).max()
    for k in range(len(a)):
        alphas = {}
        for p in cells(a.shape[1:]):
            u = g[(k, *p)] / largest if largest else 0.0
            denominator = 2 * u**2 + u**3 * a[k].sum()
            if u > 0:
                alphas[p] = u**2 / denominator if denominator else 0.0
        norm = sum(alphas.values()) or 1.0
        weight = sum(alpha / norm * g[(k, *p)] for p, alpha in alphas.items())
        for p in cells(a.shape[1:]):
            out[p] += weight * a[(k, *p)]
    return np.vectorize(relu)(out)


def slow_hirescam(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        for p in cells(a.shape[1:]):
            out[p] += g[(k, *p)] * a[(k, *p)]
    return np.vectorize(relu)(out)


def slow_layercam(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        for p in cells(a.shape[1:]):
            out[p] += relu(g[(k, *p)]) * a[(k, *p)]
    return np.vectorize(relu)(out)


def slow_xgradcam(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        total = a[k].sum()
        weight = sum(g[(k, *p)] * a[(k, *p)] for p in cells(a.shape[1:])) / total if total else 0.0
        for p in cells(a.shape[1:]):
            out[p] += weight * a[(k, *p)]
    return np.vectorize(relu)(out)


def slow_elementwise(a, g):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        for p in cells(a.shape[1:]):
            out[p] += relu(g[(k, *p)] * a[(k, *p)])
    return out


REFERENCES = {
    "gradcam": slow_gradcam,
    "gradcam++": slow_gradcam_plus_plus,
    "gradcam++-official": slow_gradcam_plus_plus_official,
    "eigengradcam": slow_eigengradcam,
    "hirescam": slow_hirescam,
    "layercam": slow_layercam,
    "xgradcam": slow_xgradcam,
    "gradcam-elementwise": slow_elementwise,
}


def tensors(grid, count=3, channels=6, seed=0):
    """Activations as after a ReLU, with a dead channel, and gradients with zeros in them."""
    rng = np.random.default_rng(seed)
    a = np.maximum(rng.normal(size=(count, channels, *grid)), 0).astype(np.float32)
    a[:, 0] = 0
    g = rng.normal(0.4, 1, size=a.shape).astype(np.float32)  # more evidence for than against
    g[rng.random(a.shape) < 0.2] = 0
    return a, g


def test_every_method_has_a_reference():
    assert set(REFERENCES) == set(GRADIENT_METHODS)
    known = {**REFERENCES, **OF_ACTIVATIONS, **OF_PROBES, **OF_AFFINE, **OF_INPUTS, **OF_BIASES}
    assert {*known, *OF_TOKENS} == set(METHODS)


def test_the_documented_table_is_the_one_in_the_package():
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    if not page.exists():
        pytest.skip("docs/ is absent")
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert rows == [
        f"| `{m.name}` | {m.formula} | {', '.join(m.needs) or '-'} | {m.cost} | {m.paper} |"
        for m in METHODS.values()
    ]


def test_every_method_is_of_one_kind_and_needs_what_that_kind_needs():
    for method in METHODS.values():
        kinds = [method.combine, method.project, method.probe]
        assert sum(kind is not None for kind in kinds) == 1, method.name
        assert ("gradients" in method.needs) == (method.combine is not None) or method.probe
        assert (method.needs == ()) == (method.project is not None or method.name == "random-cam")
        assert method.weigh is None or method.project is None
        further = {"attention", "biases", "inputs", "replays"}.intersection(method.needs)
        again = further or (method.name in OF_INPUTS and method.at_input is None)
        assert (method.cost == "1") == (not again)
        assert method.on_input or method.at_input is None


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_method_equals_its_reference(name, grid, count):
    a, g = tensors(grid, count)
    maps, status = raw_maps(a, g, METHODS[name])
    assert maps.dtype == np.float32
    assert maps.shape == (count, *grid)
    assert status == ("ok",) * count
    for item, activations, gradients in zip(maps, a, g, strict=True):
        expected = REFERENCES[name](activations.astype(float), gradients.astype(float))
        np.testing.assert_allclose(item, expected, rtol=0, atol=TOLERANCE * expected.max())


@pytest.mark.parametrize("layer", ["relu1", "conv1"])
def test_hand_computed_network(layer):
    path = Path(__file__).parents[3] / "shared" / "golden" / "one_conv.json"
    if not path.exists():
        pytest.skip("../shared/golden is absent")
    golden = json.loads(path.read_text())
    gradients = np.array(golden["relu1"]["gradients"], np.float32)[None]
    activations = np.array(golden["relu1"]["activations"], np.float32)[None]
    if layer == "conv1":  # one layer earlier: its output before the ReLU, and the ReLU's gradient
        picture = np.arange(16.0).reshape(4, 4)
        sums = [[picture[i : i + 3, j : j + 3].sum() for j in (0, 1)] for i in (0, 1)]
        activations = np.array([[np.array(sums) - 50, np.array(sums) - 75]], np.float32)
        gradients = gradients * (activations > 0)
    checked = 0
    for name, expected in golden[layer].items():
        if name in METHODS:
            maps, _ = raw_maps(activations, gradients, METHODS[name])
            np.testing.assert_allclose(maps[0], expected, atol=1e-6)  # printed to six places
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e20])
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_scaling_the_gradient_changes_no_heatmap(name, scale):
    a, g = tensors((5, 7))
    expected, _ = raw_maps(a, g, METHODS[name])
    scaled, status = raw_maps(a, (g.astype(float) * scale).astype(np.float32), METHODS[name])
    assert status == ("ok",) * 3
    np.testing.assert_allclose(rescale(scaled), rescale(expected), atol=1e-5)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_broken_tensors_give_a_status_and_never_nan(name, grid):
    a, g = tensors(grid, count=6)
    a[1] = np.nan
    g[2, 0, 0] = np.inf
    g[3] = 0
    a[4] = 1
    g[4] = 1
    g[5] = -1
    maps, status = raw_maps(a, g, METHODS[name])
    assert np.isfinite(maps).all()
    assert np.isfinite(rescale(maps)).all()
    blank = {
        "gradcam++",
        "gradcam++-official",
        "layercam",
        "gradcam-elementwise",
    }  # negative gradients count for nothing
    last = "constant" if name in blank else "all_negative"
    if name == "eigengradcam":  # a component has no evidence against; its sign follows the mean
        assert status == ("ok", "nonfinite", "nonfinite", "zero_gradient", "constant", "ok")
        assert not maps[1:5].any()
        return
    assert status == ("ok", "nonfinite", "nonfinite", "zero_gradient", "constant", last)
    for index in (1, 2, 3, 5):
        assert not maps[index].any()
    assert not rescale(maps)[4].any()


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_huge_activations_are_finite_or_said_not_to_be(name):
    a, g = tensors((5, 7))
    maps, status = raw_maps(a * 1e30, g * 1e30, METHODS[name])
    assert np.isfinite(maps).all()
    # 1e60 is beyond float32; Grad-CAM++ divides by the activations' sum, and stays at 1e30.
    assert set(status) == {"ok" if name == "gradcam++" else "nonfinite"}
    maps, status = raw_maps(a * 1e30, g, METHODS[name])
    assert status == ("ok",) * 3
    assert np.isfinite(rescale(maps)).all()


def test_guided_keeps_positive_gradients_at_positive_activations():
    a, g = tensors((5, 7))
    kept = np.where((a > 0) & (g > 0), g, 0)
    expected, _ = raw_maps(a, kept, METHODS["gradcam"])
    guided, _ = raw_maps(a, g, METHODS["gradcam"], guided=True)
    np.testing.assert_array_equal(guided, expected)
    assert not np.allclose(guided, raw_maps(a, g, METHODS["gradcam"])[0])


def test_inputs_are_not_written_to():
    a, g = tensors((5, 7))
    before = a.copy(), g.copy()
    for name in GRADIENT_METHODS:
        raw_maps(a, g, METHODS[name], guided=True)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(g, before[1])


def test_rescale_spans_zero_to_one_and_invents_no_contrast():
    maps = np.stack([np.linspace(2, 3, 12), np.full(12, 7.0), np.linspace(0, 1e-38, 12)])
    maps = maps.reshape(3, 3, 4).astype(np.float32)
    maps[1, 0, 0] *= 1 + 1e-7  # a rounding error, not evidence
    out = rescale(maps)
    np.testing.assert_allclose(out[0], np.linspace(0, 1, 12).reshape(3, 4), atol=1e-6)
    assert not out[1].any()
    assert out[2].min() == 0
    assert out[2].max() == pytest.approx(1)


@pytest.mark.parametrize(
    ("count", "grid", "size"),
    [(3, (7, 7), (224, 224)), (30, (5, 6), (150, 170)), (2, (4, 4), (4, 4)), (0, (3, 3), (6, 6)),
     (3, (9,), (40,))],
    ids=str,
)  # fmt: skip
def test_heatmaps_are_resized_and_rescaled_one_by_one(count, grid, size):
    maps = np.random.default_rng(0).normal(size=(count, *grid)).astype(np.float32)
    before = maps.copy()
    found = heatmaps(maps, size)
    assert found.shape == (count, *size)
    assert not np.may_share_memory(found, maps)
    np.testing.assert_array_equal(maps, before)
    for one, heatmap in zip(maps, found, strict=True):
        large = resize(one[None], size)[0]
        # The same operations, in pieces of another width.
        expected = (large - large.min()) / (large.max() - large.min())
        np.testing.assert_allclose(heatmap, expected, rtol=0, atol=1e-6)


WEIGHED = [name for name in GRADIENT_METHODS if METHODS[name].weigh]
SLOW_TERMS = {
    "gradcam": lambda a, g: [g[k].mean() * a[k] for k in range(len(a))],
    "gradcam-elementwise": lambda a, g: np.maximum(a * g, 0),
    "hirescam": lambda a, g: a * g,
    "layercam": lambda a, g: a * np.maximum(g, 0),
    "xgradcam": lambda a, g: [
        (g[k] * a[k]).sum() / a[k].sum() * a[k] if a[k].any() else a[k] for k in range(len(a))
    ],
}


@pytest.mark.parametrize("channels", [6, 60])  # either Gram matrix
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", SLOW_TERMS)
def test_the_component_of_weighted_channels(name, grid, channels):
    a, g = tensors(grid, channels=channels)
    maps, status = raw_maps(a, g, METHODS[name], component=True)
    assert status == ("ok",) * 3
    for item, activations, gradients in zip(maps, a.astype(float), g.astype(float), strict=True):
        terms = np.array(SLOW_TERMS[name](activations, gradients))
        expected = np.maximum(principal(terms), 0)
        np.testing.assert_allclose(item, expected, rtol=0, atol=TOLERANCE * expected.max())


@pytest.mark.parametrize("name", WEIGHED)
def test_weighted_channels_sum_up_to_the_map_and_their_component_has_its_sign(name):
    a, g = tensors((5, 7))
    method = METHODS[name]
    weights = method.weigh(a.reshape(3, 6, -1), g.reshape(3, 6, -1)).reshape(3, 6, -1)
    total = np.maximum((weights * a.reshape(3, 6, -1)).sum(1), 0).reshape(3, 5, 7)
    plain, _ = raw_maps(a, g, method)
    np.testing.assert_allclose(plain, total, rtol=0, atol=TOLERANCE * total.max())
    component, _ = raw_maps(a, g, method, component=True)
    for one, other in zip(plain, component, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e20])
@pytest.mark.parametrize("name", WEIGHED)
def test_scaling_the_gradient_changes_no_component(name, scale):
    a, g = tensors((5, 7))
    expected, _ = raw_maps(a, g, METHODS[name], component=True)
    large = (g.astype(float) * scale).astype(np.float32)
    scaled, status = raw_maps(a, large, METHODS[name], component=True)
    assert status == ("ok",) * 3
    np.testing.assert_allclose(rescale(scaled), rescale(expected), atol=1e-5)


@pytest.mark.parametrize("name", WEIGHED)
def test_the_component_of_broken_tensors_is_never_nan(name):
    a, g = tensors((5, 7), count=5)
    a[1] = np.nan
    g[2, 0, 0] = np.inf
    g[3] = 0
    a[4] = g[4] = 1
    maps, status = raw_maps(a, g, METHODS[name], component=True)
    assert np.isfinite(maps).all()
    assert status == ("ok", "nonfinite", "nonfinite", "zero_gradient", "constant")
    assert not rescale(maps)[1:].any()


def test_methods_without_weights_have_no_component():
    a, g = tensors((5, 7))
    for name in ("eigengradcam", "fem"):
        with pytest.raises(MethodError, match=rf"'pca' .* method '{name}', .* one of gradcam, "):
            raw_maps(a, g, METHODS[name], component=True)


def test_unknown_method_names_the_known_ones():
    with pytest.raises(MethodError, match=r"'gradcampp'; there are gradcam, .*did you mean"):
        method_named("gradcampp")
