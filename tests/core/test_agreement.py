"""The figures of a comparison against slow references, loops and sets, and other libraries."""

import dataclasses
import math
import statistics

import numpy as np
import pytest

from gradcam_multi.agreement import (
    Agreement,
    Field,
    agree,
    average_ranks,
    correlation,
    moved_share,
    overlap,
    peak,
    relative_difference,
    sample,
)
from gradcam_multi.geometry import Geometry
from gradcam_multi.resize import resize

RNG = np.random.default_rng(0)
EXACT = 1e-12  # float64, in another order of summation
PAIRS = [
    (RNG.normal(size=50), RNG.normal(size=50)),
    (np.maximum(RNG.normal(size=60), 0), np.maximum(RNG.normal(size=60), 0)),  # half are ties
    (RNG.integers(0, 4, 40).astype(float), RNG.integers(0, 4, 40).astype(float)),
    (np.arange(9.0), np.arange(9.0)[::-1].copy()),
    (1e-200 * RNG.random(30), 1e200 * RNG.random(30)),  # squares would leave float64
]


def slow_ranks(values):
    """A rank is one more than those below, and half of the others that are equal."""
    return [
        1
        + sum(other < value for other in values)
        + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_ranks_and_correlations(a, b):
    assert average_ranks(a).tolist() == slow_ranks(a)
    unit = [(v / np.abs(v).max()).tolist() for v in (a, b)]
    assert correlation(a, b) == pytest.approx(statistics.correlation(*unit), abs=EXACT)
    ranked = correlation(average_ranks(a), average_ranks(b))
    assert ranked == pytest.approx(statistics.correlation(slow_ranks(a), slow_ranks(b)), abs=EXACT)
    stats = pytest.importorskip("scipy.stats", reason="a further check where SciPy is installed")
    assert ranked == pytest.approx(stats.spearmanr(a, b).statistic, abs=EXACT)


def test_a_correlation_that_rounding_would_take_beyond_one():
    a = RNG.random(1000)
    assert correlation(a, 3 * a + 1) <= 1
    assert correlation(a, -a) >= -1


def test_correlations_of_constants_are_defined():
    constant, other = np.full(5, 3.0), np.arange(5.0)
    assert correlation(constant, constant + 1) == 1
    assert correlation(constant, other) == correlation(other, np.zeros(5)) == 0


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_the_share_that_moved(a, b):
    totals = sum(map(abs, a.tolist())), sum(map(abs, b.tolist()))
    moved = 0.0
    for x, y in zip(a.tolist(), b.tolist(), strict=True):
        moved += abs(x / totals[0] - y / totals[1]) / 2
    assert moved_share(a, b) == pytest.approx(min(moved, 1), abs=EXACT)
    assert moved_share(a, 1e-6 * a) == pytest.approx(0, abs=1e-15)  # the unit does not matter
    assert moved_share(np.array([0, 1.0]), np.array([1.0, 0])) == 1
    assert moved_share(np.array([3.0, 1.0]), np.array([2.0, 2.0])) == 0.25  # a quarter went over
    assert moved_share(np.zeros(2), np.zeros(2)) == 0
    assert moved_share(np.zeros(2), np.ones(2)) == 1


def test_the_largest_relative_difference():
    a, b = np.array([0.0, -4.0, 2.0]), np.array([0.5, -3.0, 2.0])
    assert relative_difference(a, b) == 0.25
    assert relative_difference(np.zeros(3), b) == 1  # nothing to relate it to but b itself
    assert relative_difference(np.zeros(3), np.zeros(3)) == 0


def slow_top(values, share):
    """Indices that are not below the k-th largest, and above the smallest."""
    ordered = sorted(values, reverse=True)
    least = ordered[math.ceil(share * len(values)) - 1]
    return {i for i, value in enumerate(values) if value >= least and value > ordered[-1]}


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_the_overlap_of_the_top(a, b, share):
    tops = slow_top(a.tolist(), share), slow_top(b.tolist(), share)
    expected = len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    assert overlap(a, b, share) == expected


def test_the_top_is_not_filled_up_by_lot():
    a, b = np.zeros(100), np.zeros(100)
    a[[3, 4]] = 1, 2
    b[[4, 5]] = 1, 2
    assert overlap(a, b) == 1 / 3
    assert overlap(np.zeros(5), np.zeros(5)) == 1
    assert overlap(a, np.zeros(100)) == 0


@pytest.mark.parametrize("shape", [(5,), (4, 7), (2, 3, 4)], ids=str)
def test_sampling_the_whole_is_resizing(shape):
    cam = RNG.normal(size=shape).astype(np.float32)
    size = tuple(3 * n + 1 for n in shape)
    values, seen = sample(cam, Field((0.0,) * len(size), tuple(map(float, size))), size)
    assert seen.all()
    np.testing.assert_allclose(values, resize(cam[None], size)[0], rtol=0, atol=1e-6)  # float32


def test_sampling_a_part_is_restoring_a_crop():
    cam = RNG.normal(size=(6, 5)).astype(np.float32)
    box = (3.3, -2.0, 20.9, 17.5)
    values, seen = sample(cam, Field(box[:2], box[2:]), (24, 30))
    restored = Geometry((24, 30), box).restore(cam, fill=np.nan)
    assert np.array_equal(seen, ~np.isnan(restored))
    assert 0 < seen.sum() < seen.size
    np.testing.assert_allclose(values[seen], restored[seen], rtol=0, atol=1e-6)  # float32


def test_the_peak_is_where_the_resized_map_is_largest():
    for seed in range(5):
        cam = np.random.default_rng(seed).random((4, 3)).astype(np.float32)
        size = (4 * 25, 3 * 25)  # an odd number of pixels a cell: its centre is a pixel's
        place = np.unravel_index(resize(cam[None], size)[0].argmax(), size)
        at = peak(cam, Field((0, 0), size))
        inner = [
            0 < i < n - 1
            for i, n in zip(np.unravel_index(cam.argmax(), (4, 3)), (4, 3), strict=True)
        ]
        for axis in (0, 1):
            if inner[axis]:  # at the border the map is level, and the first of equal pixels counts
                assert at[axis] == place[axis] + 0.5


def bump(shape, place, width=1.0):
    grids = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    squares = sum((grid - at) ** 2 for grid, at in zip(grids, place, strict=True))
    return np.exp(-squares / (2 * width**2)).astype(np.float32)


def whole(*size):
    return Field((0.0,) * len(size), tuple(map(float, size)))


def test_maps_of_one_grid_are_compared_raw():
    a, b = bump((7, 7), (2, 2)), bump((7, 7), (4, 3))
    found = agree(a, b, (70, 140), (whole(70, 140), whole(70, 140)))
    x, y = (m.ravel().astype(np.float64) for m in (a, b))
    assert found.raw
    assert found.status == "ok"
    assert found.drift == moved_share(x, y)
    assert found.map_difference == relative_difference(x, y)
    assert found.pearson == pytest.approx(statistics.correlation(x.tolist(), y.tolist()), abs=EXACT)
    assert found.spearman == pytest.approx(
        statistics.correlation(slow_ranks(x), slow_ranks(y)), abs=EXACT
    )
    assert found.peak_shift == pytest.approx(math.hypot(2 * 10, 1 * 20))
    assert found.peak_shift_share == pytest.approx(math.hypot(20, 20) / math.hypot(70, 140))
    pixels = [resize(m[None], (70, 140))[0].ravel().tolist() for m in (a, b)]
    tops = [slow_top(values, 0.2) for values in pixels]
    expected = len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    # A pixel of 9800 on the edge may fall to either side, by another order of products.
    assert found.overlap == pytest.approx(expected, abs=1e-3)


def test_maps_of_two_grids_are_compared_at_the_pixels():
    a, b = bump((7, 7), (2, 2)), bump((14, 14), (4.5, 4.5), 2.0)  # the same place, finer
    found = agree(a, b, (56, 56), (whole(56, 56), whole(56, 56)))
    assert not found.raw
    x, y = (resize(m[None], (56, 56))[0].ravel().astype(np.float64) for m in (a, b))
    # The pixels come from float32 products in another order.
    assert found.drift == pytest.approx(moved_share(x, y), abs=1e-6)
    assert found.pearson == pytest.approx(correlation(x, y), abs=1e-6)
    assert found.drift < 0.1
    assert found.pearson > 0.95
    assert found.peak_shift <= math.hypot(2, 2)  # half a cell of the finer grid


def test_a_crop_is_compared_where_both_look():
    """The other model sees the middle half of the same thing: same map, but for the border."""
    truth = bump((64, 64), (28.0, 36.0), 4.0)
    field = Field((16.0, 16.0), (48.0, 48.0))
    a, b = (
        truth.reshape(16, 4, 16, 4).mean((1, 3)),
        truth[16:48, 16:48].reshape(8, 4, 8, 4).mean((1, 3)),
    )
    found = agree(a, b, (64, 64), (whole(64, 64), field))
    blind = agree(a, b, (64, 64), (whole(64, 64), whole(64, 64)))
    assert found.peak_shift == 0
    assert found.pearson > 0.999
    assert found.drift < 0.01
    assert blind.drift > 0.3  # as if the crop were the whole


@pytest.mark.parametrize(
    ("a", "b", "finite", "status"),
    [
        (np.zeros((3, 3)), np.zeros((3, 3)), True, "flat"),
        (np.zeros((3, 3)), np.ones((3, 3)), True, "flat"),
        (np.ones((1, 1)), np.ones((1, 1)), True, "flat"),
        (np.zeros((3, 3)), bump((3, 3), (1, 1)), True, "one_flat"),
        (bump((3, 3), (1, 1)), np.ones((3, 3)), True, "one_flat"),
        (bump((3, 3), (1, 1)), np.zeros((3, 3)), False, "nonfinite"),
        (np.zeros((3, 3)), np.zeros((3, 3)), False, "nonfinite"),
    ],
)
def test_maps_without_a_peak_are_defined(a, b, finite, status):
    a, b = (np.asarray(m, np.float32) for m in (a, b))
    found = agree(a, b, (30, 40), (whole(30, 40), whole(30, 40)), finite=finite)
    worst = Agreement(status, True, 1.0, 1.0, 0.0, 0.0, 0.0, 50.0, 1.0)
    best = Agreement(status, True, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0)
    assert found == (best if status == "flat" else worst)


def test_nothing_is_ever_nan():
    values = [0.0, 1e-38, 1.0, 1e38, -1.0]
    rng = np.random.default_rng(1)
    for _ in range(300):
        a, b = (rng.choice(values, (2, 3)).astype(np.float32) for _ in "ab")
        found = agree(a, b, (6, 6), (whole(6, 6), whole(6, 6)))
        numbers = [v for v in dataclasses.astuple(found) if isinstance(v, float)]
        assert all(map(math.isfinite, numbers)), (a, b, found)
        assert 0 <= found.drift <= 1
        assert 0 <= found.overlap <= 1
        assert -1 <= found.pearson <= 1
        assert -1 <= found.spearman <= 1
