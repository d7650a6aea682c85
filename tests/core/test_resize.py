import numpy as np
import pytest

from gradcam_multi.resize import _bands, interpolation_matrix, resize


def slow_sample(line, target, i):
    """Half-pixel-centred linear interpolation of one sample, border clamped."""
    x = (i + 0.5) * len(line) / target - 0.5
    x = min(max(x, 0), len(line) - 1)
    low = int(np.floor(x))
    high = min(low + 1, len(line) - 1)
    return line[low] * (1 - (x - low)) + line[high] * (x - low)


def slow_resize(grid, size):
    out = np.asarray(grid, float)
    for axis, target in enumerate(size):
        lines = np.moveaxis(out, axis, -1)
        new = np.array(
            [
                [slow_sample(line, target, i) for i in range(target)]
                for line in lines.reshape(-1, lines.shape[-1])
            ]
        )
        out = np.moveaxis(new.reshape(*lines.shape[:-1], target), -1, axis)
    return out


@pytest.mark.parametrize(
    ("grid", "size"),
    [((7,), (50,)), ((7, 7), (224, 224)), ((4, 9), (97, 203)), ((13, 1), (26, 5)), ((8, 6), (5, 3)),
     ((2, 3, 4), (5, 7, 9)), ((3, 3), (3, 3)), ((1, 1), (4, 4)), ((90, 31), (400, 129)),
     ((200, 3), (65, 64)), ((300,), (64,))],
    ids=str,
)  # fmt: skip
def test_equals_the_slow_reference(grid, size):
    maps = np.random.default_rng(0).normal(size=(2, *grid)).astype(np.float32)
    out = resize(maps, size)
    assert out.dtype == np.float32
    for got, source in zip(out, maps, strict=True):
        # Three float32 products of values about 1.
        np.testing.assert_allclose(got, slow_resize(source, size), atol=2e-6)


def test_known_values():
    """Doubling [0, 1]: samples at -0.25, 0.25, 0.75, 1.25, clamped to the border."""
    np.testing.assert_array_equal(resize([[0.0, 1.0]], (4,)), [[0, 0.25, 0.75, 1]])


def test_rows_sum_to_one_and_the_cache_is_read_only():
    matrix = interpolation_matrix(7, 224)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 5


def test_the_work_grows_with_the_samples():
    """Along one axis, by multiplications a sample; the whole matrix would take as many as cells."""
    for cells in (7, 14, 56, 112, 1000):
        bands = _bands(cells, 8 * cells)
        assert sum(band.weights.size for band in bands) <= 8 * cells * (64 / 8 + 2)
        rebuilt = np.zeros((8 * cells, cells), np.float32)
        for band in bands:
            rebuilt[band.samples, band.cells] = band.weights
        np.testing.assert_array_equal(rebuilt, interpolation_matrix(cells, 8 * cells))


def test_rank_mismatch():
    with pytest.raises(ValueError, match="rank 2 to the size"):
        resize(np.zeros((1, 3, 3)), (5,))
