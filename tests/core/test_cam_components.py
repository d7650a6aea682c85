"""The methods of activations alone against full decompositions and loops."""

import numpy as np
import pytest
from cam_references import OF_ACTIVATIONS, slow_eigengradcam

from gradcam_multi.cam import METHODS, raw_maps, rescale
from gradcam_multi.errors import LayerError, MethodError

# Activations are float32; the reference computes the same sums in float64.
TOLERANCE = 1e-5
GRIDS = [(7,), (5, 7), (2, 3, 4)]
EIGEN = ("eigencam", "eigengradcam", "kpca-cam")


def activations(grid, count=3, channels=6, seed=0):
    """As after a ReLU, with a dead channel, and one whose cells are few enough for FEM."""
    rng = np.random.default_rng(seed)
    a = np.maximum(rng.normal(size=(count, channels, *grid)), 0).astype(np.float32)
    a[:, 0] = 0
    a[:, 1] *= 0.01
    a.reshape(count, channels, -1)[:, 1, 2] = 3
    return a


def maps_of(name, a, g=None):
    return raw_maps(a, g, METHODS[name])


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("channels", [6, 60], ids="{} channels".format)  # either Gram matrix
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", OF_ACTIVATIONS)
def test_method_equals_its_reference(name, grid, channels, count):
    a = activations(grid, count, channels)
    maps, status = maps_of(name, a)
    assert status == ("ok",) * count
    for item, map_ in zip(a.astype(float), maps, strict=True):
        expected = OF_ACTIVATIONS[name](item)
        np.testing.assert_allclose(map_, expected, rtol=0, atol=TOLERANCE * expected.max())


@pytest.mark.parametrize("channels", [6, 60])
def test_eigengradcam_equals_its_reference_with_many_channels(channels):
    a = activations((5, 7), 3, channels)
    g = np.random.default_rng(1).normal(size=a.shape).astype(np.float32)
    maps, _ = maps_of("eigengradcam", a, g)
    for item, gradient, map_ in zip(a.astype(float), g.astype(float), maps, strict=True):
        expected = slow_eigengradcam(item, gradient)
        np.testing.assert_allclose(map_, expected, rtol=0, atol=TOLERANCE * expected.max())


@pytest.mark.parametrize("name", EIGEN)
def test_the_order_of_channels_does_not_matter(name):
    a = activations((5, 7), 4, 12)
    g = np.random.default_rng(1).normal(size=a.shape).astype(np.float32)
    order = np.random.default_rng(2).permutation(12)
    expected, _ = maps_of(name, a, g)
    permuted, _ = maps_of(name, a[:, order], g[:, order])
    np.testing.assert_allclose(permuted, expected, rtol=0, atol=TOLERANCE * expected.max())


@pytest.mark.parametrize("name", ["eigencam", "eigengradcam"])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_the_unit_of_the_activations_does_not_matter(name, scale):
    a = activations((5, 7))
    g = np.random.default_rng(1).normal(size=a.shape).astype(np.float32)
    expected, _ = maps_of(name, a, g)
    scaled, status = maps_of(name, (a.astype(float) * scale).astype(np.float32), g)
    assert status == ("ok",) * 3
    np.testing.assert_allclose(rescale(scaled), rescale(expected), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", OF_ACTIVATIONS)
def test_broken_activations_give_a_status_and_never_nan(name, grid):
    a = activations(grid, 8)
    a[1] = np.nan
    a[2, 0, 0] = np.inf
    a[3] = 0
    a[4] = 1
    a[5] = 1 + 1e-7 * np.random.default_rng(0).random(a[5].shape)  # a rounding, not evidence
    a[6] = -a[0]
    a[7] *= 1e30
    maps, status = maps_of(name, a)
    assert np.isfinite(maps).all()
    assert np.isfinite(rescale(maps)).all()
    assert status[:5] == ("ok", "nonfinite", "nonfinite", "constant", "constant")
    assert not rescale(maps)[1:5].any()
    assert status[7] == "ok"
    if name == "fem":  # every cell that stands out lies in a channel whose mean is negative
        assert status[6] in ("all_negative", "constant")
    else:
        assert status[5:7] == ("constant", "ok")
        assert not rescale(maps)[5].any()


def test_the_sign_follows_the_mean_activation():
    a = activations((5, 7), 4, 12)
    for item, map_ in zip(a, maps_of("eigencam", a)[0], strict=True):
        assert np.corrcoef(item.mean(0).ravel(), map_.ravel())[0, 1] > 0


def test_a_kernel_of_too_many_cells_is_refused():
    with pytest.raises(LayerError, match=r"a layer of 4225 cells.*at most 4096, or take eigencam"):
        maps_of("kpca-cam", np.zeros((1, 2, 65, 65), np.float32))


def test_what_needs_more_than_arrays_says_so():
    a = activations((5, 7))
    with pytest.raises(MethodError, match="'gradcam' needs gradients, and was given none"):
        raw_maps(a, None, METHODS["gradcam"])
    with pytest.raises(MethodError, match="'rise' runs the model again: use it through Explainer"):
        raw_maps(a, a, METHODS["rise"])
