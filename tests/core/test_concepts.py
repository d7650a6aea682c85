"""Deep Feature Factorization against multiplicative updates, made-up concepts and the network."""

import numpy as np
import pytest

import gradcam_multi as gm
from gradcam_multi.cam.factorization import factorize
from gradcam_multi.geometry import Geometry
from gradcam_multi.testing import NETWORKS, Reference, inputs_of, probe_inputs, probe_network


def slow_error(matrix, number, seed, rounds=400):
    """The missing squared norm of Lee and Seung's updates (2001) from a random start."""
    rng = np.random.default_rng(seed)
    left, right = rng.random((len(matrix), number)), rng.random((number, matrix.shape[1]))
    for _ in range(rounds):
        above, below = left.T @ matrix, left.T @ left @ right
        for place in np.ndindex(right.shape):
            right[place] *= above[place] / (below[place] + 1e-300)
        above, below = matrix @ right.T, left @ right @ right.T
        for place in np.ndindex(left.shape):
            left[place] *= above[place] / (below[place] + 1e-300)
    return ((matrix - left @ right) ** 2).sum()


def random_matrix(rows, columns, seed=0):
    return np.maximum(np.random.default_rng(seed).normal(size=(rows, columns)), 0)


@pytest.mark.parametrize(("rows", "columns"), [(30, 8), (8, 30)])
@pytest.mark.parametrize("number", [1, 3, 5])
def test_no_random_start_of_the_slow_updates_does_much_better(rows, columns, number):
    matrix = random_matrix(rows, columns)
    found = factorize(matrix, number)
    error = ((matrix - found.left @ found.right) ** 2).sum()
    best = min(slow_error(matrix, number, seed) for seed in range(3))
    # The problem has many local minima; for one component there is one, the singular vectors.
    assert error <= best * (1.0001 if number == 1 else 1.05)
    assert found.explained == pytest.approx(1 - error / (matrix**2).sum(), abs=1e-9)
    assert (found.left >= 0).all()
    assert (found.right >= 0).all()
    np.testing.assert_allclose(found.left.max(0), 1)
    sizes = [np.linalg.norm(np.outer(found.left[:, k], found.right[k])) for k in range(number)]
    assert sizes == sorted(sizes, reverse=True)


def test_neither_factor_can_be_improved_alone():
    matrix = random_matrix(40, 12)
    found = factorize(matrix, 4)
    missing = found.left @ found.right - matrix
    scale = np.abs(matrix.T @ found.left).max()
    for slope, factor in (
        (missing @ found.right.T, found.left),
        (found.left.T @ missing, found.right),
    ):
        own = scale * np.abs(factor).max()
        # The conditions of a minimum: flat where the factor is positive, uphill where it is zero;
        # as far as a last round tells that took off a ten-millionth of the norm.
        assert (np.abs(slope[factor > 1e-3 * factor.max()]) <= 2e-3 * own).all()
        assert (slope >= -2e-3 * own).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_concepts_that_are_there_are_found_whatever_the_unit(scale):
    rng = np.random.default_rng(3)
    # Each has cells of its own and channels of its own, so that there is one factorization only.
    own = np.kron(np.eye(3), np.ones((1, 5)))
    vectors = np.hstack([own * rng.uniform(0.2, 1, (3, 15)), rng.random((3, 5))]) * scale
    strengths = np.kron(np.eye(3), np.ones((8, 1))) * rng.uniform(0.2, 1, (24, 1))
    found = factorize(strengths @ vectors, 3)
    assert found.explained > 1 - 1e-5  # a hundred rounds of the last size
    for k in range(3):
        match = max(np.corrcoef(found.left[:, other], strengths[:, k])[0, 1] for other in range(3))
        assert match > 0.999


def test_less_than_was_asked_for_leaves_the_rest_empty():
    found = factorize(np.outer(np.arange(1.0, 6), [1.0, 2.0, 0.0]), 3)
    np.testing.assert_allclose(found.left[:, 0], np.arange(1.0, 6) / 5, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.right[0], [5, 10, 0], rtol=0, atol=1e-9)
    assert not found.left[:, 1:].any()
    blank = factorize(np.zeros((4, 3)), 2)
    assert not blank.left.any()
    assert blank.explained == 1


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_maps_and_vectors_make_up_the_activations(count, batch_size):
    network, inputs = probe_network(), probe_inputs(count)
    found = gm.concepts(network, inputs, 4, batch_size=batch_size)
    a = Reference(network, inputs).tensors["relu2"]
    made = np.einsum("nkij,kc->ncij", found.maps, found.vectors)
    share = 1 - ((a - made) ** 2).sum() / (a**2).sum()
    assert share == pytest.approx(found.explained, abs=1e-5)  # float32
    assert found.explained > 0.9  # 8 channels, 4 concepts
    assert found.maps.max((0, 2, 3)) == pytest.approx(np.ones(4))
    assert found.layer == "relu2"
    assert found.status == ("ok",) * count
    assert found.heatmaps.shape == (count, 4, 16, 16)


def test_the_network_is_asked_about_each_concept_alone():
    network, inputs = probe_network(), probe_inputs(3)
    found = gm.concepts(network, inputs, 3, labels="abcde")
    weights, bias = network.weights["logits.weight"], network.weights["logits.bias"]
    # A layer filled with a vector has it as its mean.
    expected = found.vectors @ weights.T + bias
    np.testing.assert_allclose(found.logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    exponential = np.exp(expected - expected.max(1, keepdims=True))
    p = exponential / exponential.sum(1, keepdims=True)
    label, chance = found.classes(1)[0]
    assert label == "abcde"[p[1].argmax()]
    assert chance == pytest.approx(p[1].max(), rel=1e-4)
    assert found.name(1) == f"2 {label}"


@pytest.mark.parametrize("name", ["1-D", "3-D", "token", "two inputs", "fp16", "dict output"])
def test_other_kinds_of_networks(name):
    network = NETWORKS[name]()
    output, layer = next(iter(network.defaults.items()))
    found = gm.concepts(network, inputs_of(network, 2), 2, output=output, layer=layer)
    assert found.maps.shape[:2] == (2, 2)
    assert 0 < found.explained <= 1
    assert np.isfinite(found.logits).all()
    assert found.logits.shape == (2, 5)


def test_an_item_with_nan_takes_no_part():
    network, inputs = probe_network(), probe_inputs(3)
    expected = gm.concepts(network, inputs[[0, 2]], 3)
    inputs[1, 0, 0, 0] = np.nan
    found = gm.concepts(network, inputs, 3)
    assert found.status == ("ok", "nonfinite", "ok")
    np.testing.assert_array_equal(found.maps[[0, 2]], expected.maps)
    assert not found.maps[1].any()


def test_a_picture_has_the_colour_of_its_strongest_concept():
    network, inputs = probe_network(), probe_inputs(2)
    found = gm.concepts(network, inputs, 3)
    grey = np.full((16, 16, 3), 100, np.uint8)
    drawn = found.overlay(1, grey, alpha=1.0)
    colours = [(230, 159, 0), (86, 180, 233), (0, 158, 115)]
    for row, column in [(0, 0), (7, 9), (15, 3)]:
        strength = found.heatmaps[1][:, row, column]
        best = strength.argmax()
        for channel in range(3):
            mixed = 100 * (1 - strength[best]) + colours[best][channel] * strength[best]
            assert abs(drawn[row, column, channel] - mixed) <= 0.5 + 1e-3  # rounded
    wide = np.zeros((20, 40, 3), np.uint8)
    part = found.overlay(0, wide, Geometry((20, 40), (0, 10, 20, 30)))
    assert not part[:, :10].any()
    assert part[:, 10:30].any()
    panel = found.to_pil([grey, grey], height=40)
    assert panel.width > 4 * 40
    assert panel.height > 2 * 40


def test_what_is_asked_wrongly():
    network, inputs = probe_network(), probe_inputs(1)
    with pytest.raises(gm.InputError, match=r"9 concepts .* 8 channels in 64 cells .* from 1 to 8"):
        gm.concepts(network, inputs, 9)
    with pytest.raises(gm.ImageError, match="2 pictures were given for 1 items"):
        gm.concepts(network, inputs, 2).to_pil([np.zeros((16, 16, 3), np.uint8)] * 2)
    network = NETWORKS["3-D"]()
    found = gm.concepts(network, inputs_of(network, 1), 2)
    with pytest.raises(gm.ImageError, match="have 3 spatial axes"):
        found.overlay(0, np.zeros((16, 16, 3), np.uint8))
