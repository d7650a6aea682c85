"""The metrics against cases by hand and slow loops over pixels, on scores written out here."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from gradcam_multi import metrics
from gradcam_multi.errors import InputError, MissingExtraError
from gradcam_multi.metrics.curves import ranks
from gradcam_multi.metrics.fidelity import cell_numbers

RNG = np.random.default_rng(0)
EXACT = 1e-12  # float64, in another order of summation
FLOAT32 = 1e-6  # a few roundings of float32 inputs of size 1


def linear(weights):
    """A model whose score is the sum of its pixels times weights (C, *spatial)."""

    def score(inputs, items):
        return (inputs.astype(np.float64) * weights).reshape(len(inputs), -1).sum(1)

    return score


def product(inputs, items):
    """A score that is not linear, and another one for each item."""
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    return 1 / (1 + np.exp(-(flat[:, ::2] * flat[:, 1::2]).sum(1) + 0.3 * items))


# Probabilities: before, after, and by hand the share lost, whether it rose, the share gained.
BY_HAND = [
    (1.0, 0.4, 0.6, 0, 0.0),
    (0.5, 0.25, 0.5, 0, 0.0),
    (0.5, 0.75, 0.0, 1, 0.5),
    (0.8, 0.8, 0.0, 0, 0.0),
    (0.0, 0.3, 0.0, 1, 0.3),
    (1.0, 1.0, 0.0, 0, 0.0),
]


@pytest.mark.parametrize(("before", "after", "drop", "rises", "gain"), BY_HAND)
def test_confidence_by_hand(before, after, drop, rises, gain):
    y, o = [before], [after]
    assert metrics.average_drop(y, o) == pytest.approx([drop], abs=EXACT)
    assert metrics.increase(y, o).tolist() == [rises]
    assert metrics.average_gain(y, o) == pytest.approx([gain], abs=EXACT)
    # Libraries that divide by before + 1e-7 are that much lower.
    divided = max(0, before - after) / (before + 1e-7)
    assert metrics.average_drop(y, o) == pytest.approx([divided], abs=2e-7)


def test_what_a_heatmap_leaves():
    inputs = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    heat = RNG.random((2, 4, 5)).astype(np.float32)
    np.testing.assert_array_equal(metrics.masked(inputs, heat), inputs * heat[:, None])
    filled = metrics.masked(inputs, heat, "mean")
    for n, c, i, j in itertools.product(*map(range, inputs.shape)):
        h, x = float(heat[n, i, j]), float(inputs[n, c, i, j])
        expected = h * x + (1 - h) * inputs[n, c].mean(dtype=np.float64)
        assert filled[n, c, i, j] == pytest.approx(expected, abs=FLOAT32)


def test_baselines():
    inputs = RNG.normal(size=(2, 3, 6, 5)).astype(np.float32)
    assert metrics.baseline_of(inputs, 0.25).tolist() == [[[[0.25]]]]
    mean = metrics.baseline_of(inputs, "mean")
    assert mean.shape == (2, 3, 1, 1)
    np.testing.assert_allclose(mean[..., 0, 0], inputs.mean((2, 3)), atol=FLOAT32)
    blurred = metrics.blurred(inputs, 0.2)
    expected = np.zeros(inputs.shape)
    for i, j in itertools.product(range(6), range(5)):
        total = 0.0
        for k, m in itertools.product(range(6), range(5)):
            weight = math.exp(-0.5 * ((i - k) / 1.2) ** 2) * math.exp(-0.5 * ((j - m) / 1.0) ** 2)
            expected[..., i, j] += weight * inputs[..., k, m]
            total += weight
        expected[..., i, j] /= total
    np.testing.assert_allclose(blurred, expected, atol=FLOAT32)
    for wrong in ("grey", None, float("nan")):
        with pytest.raises(InputError, match="give 'blur', 'mean' or a number"):
            metrics.baseline_of(inputs, wrong)


def test_two_pixels_by_hand():
    """Deletion 1, 0.3, 0 is (1/2 + 0.3 + 0) / 2 = 0.4; insertion 0, 0.7, 1 is 0.6."""
    score = linear(np.array([[0.3, 0.7]]))
    inputs = np.ones((1, 1, 2), np.float32)
    heat = np.array([[0.0, 1.0]], np.float32)
    gone = metrics.deletion(score, inputs, heat, steps=2, baseline=0)
    np.testing.assert_allclose(gone.scores, [[1, 0.3, 0]], atol=EXACT)
    assert gone.area == pytest.approx([0.4], abs=EXACT)
    come = metrics.insertion(score, inputs, heat, steps=2, baseline=0)
    np.testing.assert_allclose(come.scores, [[0, 0.7, 1]], atol=EXACT)
    assert come.area == pytest.approx([0.6], abs=EXACT)
    # The other way round it is the worst order of both.
    assert metrics.deletion(score, inputs, 1 - heat, steps=2, baseline=0).area == pytest.approx(
        [0.6], abs=EXACT
    )


@pytest.mark.parametrize("shape", [(3, 2, 10), (3, 1, 4, 5), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("baseline", ["blur", "mean", 0.5])
def test_curves_against_loops(shape, baseline):
    inputs = RNG.normal(size=shape).astype(np.float32)
    heat = RNG.random((shape[0], *shape[2:])).astype(np.float32)
    steps, pixels = 4, math.prod(shape[2:])
    fill = np.broadcast_to(metrics.baseline_of(inputs, baseline), shape)
    for measure, start, end in (
        (metrics.deletion, inputs, fill),
        (metrics.insertion, fill, inputs),
    ):
        curve = measure(product, inputs, heat, steps=steps, baseline=baseline, chunk=3)
        for n in range(shape[0]):
            order = sorted(np.ndindex(shape[2:]), key=lambda place, n=n: -heat[n][place])
            changed, scores = start[n].copy(), []
            for k in range(steps + 1):
                for place in order[: round(k * pixels / steps)]:
                    changed[(slice(None), *place)] = end[n][(slice(None), *place)]
                scores.append(product(changed[None], np.array([n]))[0])
            np.testing.assert_allclose(curve.scores[n], scores, atol=EXACT)
            shares = [round(k * pixels / steps) / pixels for k in range(steps + 1)]
            area = sum(
                (b - a) * (s + t) / 2
                for (a, s), (b, t) in itertools.pairwise(zip(shares, scores, strict=True))
            )
            assert curve.area[n] == pytest.approx(area, abs=EXACT)


def test_never_more_inputs_than_a_chunk_and_as_many_passes_as_stated():
    sizes = []

    def score(inputs, items):
        sizes.append(len(inputs))
        return product(inputs, items)

    inputs, heat = np.ones((3, 1, 4, 4), np.float32), RNG.random((3, 4, 4))
    for run, passes in (
        (lambda: metrics.deletion(score, inputs, heat, steps=7, chunk=5), 3 * 8),
        (lambda: metrics.mu_fidelity(score, inputs, heat, subsets=11, chunk=5), 3 * 12),
    ):
        sizes.clear()
        run()
        assert max(sizes) <= 5
        assert sum(sizes) == passes


def test_large_inputs_run_few_at_once_where_no_chunk_is_named():
    sizes = []

    def score(inputs, items):
        sizes.append(len(inputs))
        return np.zeros(len(inputs))

    inputs, heat = np.ones((2, 3, 224, 224), np.float32), RNG.random((2, 224, 224))
    for run in (
        lambda: metrics.deletion(score, inputs, heat, steps=9),
        lambda: metrics.mu_fidelity(score, inputs, heat, subsets=10),
    ):
        sizes.clear()
        run()
        assert max(sizes) == 4


def test_the_order_of_equal_pixels_is_drawn_and_not_that_of_the_memory():
    blank = np.zeros((200, 4, 4), np.float32)
    places = ranks(blank, seed=1)
    assert (np.sort(places, axis=1) == np.arange(16)).all()
    # The mean place of a pixel is 7.5 with a standard deviation of 4.6 / sqrt(200) = 0.33.
    assert np.abs(places.mean(0) - 7.5).max() < 5 * 0.33
    np.testing.assert_array_equal(ranks(blank[5:9], seed=1, first=5), places[5:9])
    distinct = RNG.permutation(16).reshape(1, 4, 4)
    assert ranks(distinct)[0].tolist() == (15 - distinct.ravel()).tolist()


@pytest.mark.parametrize("steps", [0, 17])
def test_steps_that_cannot_be(steps):
    with pytest.raises(InputError, match="16 pixels: give 1 to 16"):
        metrics.deletion(product, np.ones((1, 1, 4, 4)), np.ones((1, 4, 4)), steps=steps)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0), (0, 0.0)])
@pytest.mark.parametrize("cells", [None, 3])
def test_fidelity_of_a_linear_model(sign, expected, cells):
    """Weight times pixel is what a linear model loses with it: +1; its negative: -1; flat: 0."""
    weights = RNG.normal(size=(2, 6, 6))
    inputs = RNG.normal(size=(2, 2, 6, 6)).astype(np.float32)
    heat = sign * (inputs * weights).sum(1)
    found = metrics.mu_fidelity(
        linear(weights), inputs, heat, baseline=0, cells=cells, subsets=40, share=0.3
    )
    # Inputs are float32, the sums float64.
    assert found == pytest.approx([expected] * 2, abs=FLOAT32)


def test_fidelity_where_the_score_never_changes():
    inputs, heat = np.ones((1, 1, 4, 4), np.float32), RNG.random((1, 4, 4))
    assert metrics.mu_fidelity(lambda x, i: np.full(len(x), 0.1), inputs, heat)[0] == 0


def test_fidelity_against_a_loop():
    inputs = RNG.normal(size=(1, 2, 4, 6)).astype(np.float32)
    heat, seen = RNG.random((1, 4, 6)), []

    def score(x, items):
        seen.extend(x.copy())
        return product(x, items)

    found = metrics.mu_fidelity(score, inputs, heat, subsets=25, share=0.25, cells=2, baseline=0.5)
    original, *variants = seen
    relevance, drops = [], []
    for variant in variants:
        hidden = (variant == 0.5).all(0)
        assert hidden.sum() == 6  # one of the four blocks of 2 x 3
        relevance.append(sum(heat[0][place] for place in zip(*np.nonzero(hidden), strict=True)))
        drops.append(
            product(original[None], np.zeros(1))[0] - product(variant[None], np.zeros(1))[0]
        )
    assert found == pytest.approx([np.corrcoef(relevance, drops)[0, 1]], abs=1e-9)
    with pytest.raises(InputError, match="1 subsets of the share"):
        metrics.mu_fidelity(score, inputs, heat, subsets=1)


def test_blocks():
    assert cell_numbers((2, 5), 2).tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert cell_numbers((2, 2), 9).tolist() == [0, 1, 2, 3]  # never more blocks than pixels
    assert cell_numbers((2, 2), None).tolist() == [0, 1, 2, 3]


def test_coherency_complexity_adcc():
    a = RNG.random((3, 4, 5)).astype(np.float32)
    assert metrics.coherency(a, a) == pytest.approx([1] * 3, abs=EXACT)
    assert metrics.coherency(a, 1 - a) == pytest.approx([0] * 3, abs=FLOAT32)
    assert metrics.coherency(a, np.zeros_like(a)).tolist() == [0.5] * 3
    b = RNG.random((3, 4, 5))
    slow = [
        (1 + np.corrcoef(x.ravel().astype(float), y.ravel())[0, 1]) / 2
        for x, y in zip(a, b, strict=True)
    ]
    assert metrics.coherency(a, b) == pytest.approx(slow, abs=EXACT)
    assert metrics.complexity(np.array([[[1, 0], [0, 0.5]]])).tolist() == [0.375]
    # 3 / (1/0.5 + 1/0.25 + 1/0.75) = 3 / (22/3) = 9/22
    assert metrics.adcc([0.5], [0.75], [0.25]) == pytest.approx([9 / 22], abs=EXACT)
    assert metrics.adcc([1, 0, 0.5], [0, 0.5, 1], [0, 0.5, 0.5]).tolist() == [1, 0, 0]


def test_pointing_game_by_hand():
    heat = np.zeros((5, 4, 4), np.float32)
    mask = np.zeros((5, 4, 4), bool)
    mask[:, 1, 1] = True
    heat[0, 1, 1] = 1  # on it
    heat[1, 3, 1] = 1  # two pixels off
    heat[2, 1, 1] = heat[2, 3, 3] = 1  # two largest, one of them on it
    # the fourth points at nothing
    heat[4, 1, 1], mask[4] = 1, False  # nothing to point at
    found = metrics.pointing_game(heat, mask)
    np.testing.assert_array_equal(found, [1, 0, 0.5, 0, np.nan])
    assert metrics.pointing_game(heat, mask, 1.9)[1] == 0
    assert metrics.pointing_game(heat, mask, 2)[1] == 1
    # The other of the third is sqrt(8) off.
    assert metrics.pointing_game(heat, mask, 2.9)[2] == 1


def test_energy_and_iou_by_hand():
    heat = np.array([[[0.5, 1.0], [0.25, 0.25]], [[0, 0], [0, 0]], [[1, 1], [1, 1]]], np.float32)
    mask = np.array([[[0, 1], [0, 1]], [[1, 0], [0, 0]], [[0, 0], [0, 0]]], bool)
    np.testing.assert_array_equal(metrics.energy(heat, mask), [1.25 / 2, 0, np.nan])
    np.testing.assert_array_equal(metrics.iou(heat, mask), [1 / 3, 0, np.nan])
    np.testing.assert_array_equal(metrics.iou(heat, mask, 0.2)[:1], [2 / 4])
    with pytest.raises(InputError, match=r"masks of the shape \(2, 2\)"):
        metrics.energy(heat, mask[0])


def test_boxes():
    masks = metrics.box_masks([(1, 0, 3, 2), (0.6, 0.4, 2.4, 1.6)], (3, 4))
    assert masks[0].astype(int).tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    # Pixels count by their centres: 1.5 is in (0.6, 2.4), 0.5 and 2.5 are not.
    assert masks[1].astype(int).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    with pytest.raises(InputError, match="has no area"):
        metrics.box_masks([(3, 0, 1, 2)], (3, 4))


def slow_imputed(image, removed):
    """One equation a removed pixel: itself is the weighted mean of its neighbours."""
    channels, height, width = image.shape
    places = [divmod(p, width) for p in np.flatnonzero(removed)]
    matrix, right = np.zeros((len(places),) * 2), np.zeros((len(places), channels))
    for row, (i, j) in enumerate(places):
        around = [
            (k, m, 1 / 6 if k == i or m == j else 1 / 12)
            for k, m in itertools.product(range(i - 1, i + 2), range(j - 1, j + 2))
            if (k, m) != (i, j) and 0 <= k < height and 0 <= m < width
        ]
        matrix[row, row] = sum(weight for *_, weight in around)
        for k, m, weight in around:
            if (k, m) in places:
                matrix[row, places.index((k, m))] -= weight
            else:
                right[row] += weight * image[:, k, m]
    out = image.copy()
    for (i, j), values in zip(places, np.linalg.solve(matrix, right), strict=True):
        out[:, i, j] = values
    return out


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_imputation_against_dense_equations(share):
    pytest.importorskip("scipy", reason="ROAD needs the extra metrics")
    image = RNG.normal(size=(3, 7, 9)).astype(np.float32)
    removed = RNG.permutation(63) < share * 63
    found = metrics.imputed(image, removed, 0.0, RNG)
    np.testing.assert_allclose(found, slow_imputed(image, removed), atol=FLOAT32)
    kept = ~removed.reshape(7, 9)
    np.testing.assert_array_equal(found[:, kept], image[:, kept])
    # Harmonic: what is imputed lies between what is known.
    assert found.min() >= image[:, kept].min() - FLOAT32
    assert found.max() <= image[:, kept].max() + FLOAT32


def test_imputation_of_a_slope_and_its_noise():
    pytest.importorskip("scipy", reason="ROAD needs the extra metrics")
    # Away from the border a linear picture is its own weighted mean.
    slope = np.add.outer(np.arange(9.0), 2 * np.arange(9.0))[None].astype(np.float32)
    removed = np.zeros((9, 9), bool)
    removed[2:7, 3:6] = True
    np.testing.assert_allclose(
        metrics.imputed(slope, removed.ravel(), 0.0, RNG), slope, atol=1e-5
    )  # values up to 24
    big = np.random.default_rng(1).normal(3, 2, (1, 64, 64)).astype(np.float32)
    gone = np.zeros(64 * 64, bool)
    gone[::2] = True
    noisy, plain = (metrics.imputed(big, gone, s, np.random.default_rng(2)) for s in (0.05, 0))
    spread = (noisy - plain).reshape(-1)[gone].std() / big.std()
    # The standard deviation of 2048 draws is known to 0.05 / sqrt(4096).
    assert spread == pytest.approx(0.05, abs=5 * 0.05 / 64)


def test_road_against_a_loop():
    pytest.importorskip("scipy", reason="ROAD needs the extra metrics")
    inputs = RNG.random((2, 2, 5, 6)).astype(np.float32)
    heat = RNG.random((2, 5, 6)).astype(np.float32)
    found = metrics.road(product, inputs, heat, shares=(0.2, 0.6), noise=0, chunk=3)
    for n, (step, share) in itertools.product(range(2), enumerate((0.2, 0.6))):
        count = round(share * 30)
        order = heat[n].ravel().argsort()
        for scores, gone in ((found.least, order[:count]), (found.most, order[-count:])):
            removed = np.isin(np.arange(30), gone)
            expected = product(slow_imputed(inputs[n], removed)[None], np.array([n]))
            assert scores[n, step] == pytest.approx(expected[0], abs=FLOAT32)
    half = (found.least - found.most).mean(1) / 2
    np.testing.assert_array_equal(found.combined, half)
    # An item's noise is its own, whatever stands before it in the batch.
    both = metrics.road(product, inputs, heat, shares=(0.5,), noise=0.2)
    second = metrics.road(
        lambda x, items: product(x, items + 1), inputs[1:], heat[1:], shares=(0.5,), noise=0.2,
        first=1,
    )  # fmt: skip
    np.testing.assert_array_equal(both.most[1:], second.most)
    for shares in ((), (0.0,), (1.0,)):
        with pytest.raises(InputError, match="shares between 0 and 1"):
            metrics.road(product, inputs, heat, shares=shares)


def test_road_without_scipy(monkeypatch):
    from gradcam_multi.metrics import imputation, table

    monkeypatch.setattr(imputation, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"gradcam-multi\[metrics\]"):
        metrics.road(product, np.ones((1, 1, 4, 4)), np.ones((1, 4, 4)))
    with pytest.raises(MissingExtraError, match="ROAD solves"):
        table.metrics_named(["road"], masks=False)


def test_max_sensitivity():
    inputs = RNG.normal(size=(3, 1, 4, 4)).astype(np.float32)

    def explain(x):
        return np.abs(x[:, 0])

    heat, seen = explain(inputs), []

    def kept(x):
        seen.append(x.copy())
        return explain(x)

    found = metrics.max_sensitivity(kept, inputs, heat, radius=0.1, samples=4)
    assert len(seen) == 4
    for n in range(3):
        reach = 0.1 * (inputs[n].max() - inputs[n].min())
        moved = [np.abs(x[n] - inputs[n]) for x in seen]
        assert max(m.max() for m in moved) <= reach + FLOAT32
        assert max(m.max() for m in moved) > 0.8 * reach  # of 64 uniform draws
        slow = max(
            math.dist(explain(x)[n].ravel(), heat[n].ravel()) / math.hypot(*heat[n].ravel())
            for x in seen
        )
        assert found[n] == pytest.approx(slow, rel=1e-5)  # float32 differences
    blank = np.zeros_like(heat)
    assert metrics.max_sensitivity(lambda x: blank, inputs, blank).tolist() == [0] * 3
    assert metrics.max_sensitivity(explain, inputs, blank).tolist() == [1] * 3
    with pytest.raises(InputError, match="0 samples"):
        metrics.max_sensitivity(explain, inputs, heat, samples=0)


def test_every_metric_is_defined_in_the_document():
    document = Path(__file__).parents[2] / "docs" / "metrics.md"
    rows = [line.split("|") for line in document.read_text("utf-8").splitlines()]
    defined = {row[1].strip(" `"): row for row in rows if len(row) == 7}
    for name, metric in metrics.METRICS.items():
        assert defined[name][3].strip() == metric.better
    papers = document.read_text("utf-8")
    for metric in metrics.METRICS.values():
        assert metric.paper.rpartition(":")[2] in papers


def test_public_names_exist_and_are_sorted():
    names = metrics.__all__
    assert sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n)) == names
    assert all(getattr(metrics, name) is not None for name in names)
