import numpy as np
import pytest

from gradcam_multi import products
from gradcam_multi.cam.components import eigencam, kpca_cam
from gradcam_multi.cam.gradients import weighted
from gradcam_multi.products import LARGEST, gram, leading_vector, product
from gradcam_multi.resize import resize

SHAPES = [
    ((2, 3), (3, 4)), ((224, 14), (14, 224)), ((900, 30), (5, 30, 700)),
    ((3, 1, 64), (3, 64, 9000)), ((2, 1, LARGEST + 1), (2, LARGEST + 1, 2)),
    ((0, 3), (3, 4)), ((2, 0), (0, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right"), SHAPES, ids=str)
def test_is_the_matrix_product(left, right):
    rng = np.random.default_rng(0)
    a, b = rng.integers(-3, 4, left), rng.integers(-3, 4, right)
    got = product(a.astype(np.float32), b.astype(np.float32))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, a @ b)  # whole numbers below 2^24: float32 is exact


@pytest.fixture
def sizes(monkeypatch):
    """The multiplications of each product that is made."""
    found = []
    matmul = np.matmul

    def counted(left, right, **kwargs):
        columns = right.shape[-1] if right.ndim > 1 else 1
        found.append(left.shape[-2] * left.shape[-1] * columns)
        return matmul(left, right, **kwargs)

    monkeypatch.setattr(products.np, "matmul", counted)
    return found


def test_maps_and_heatmaps_are_made_in_small_pieces(sizes):
    """What a large piece would cost is the time of whatever runs next."""
    weighted(np.ones((2, 512)), np.ones((2, 512, 56 * 56), np.float32))
    resize(np.ones((2, 56, 56), np.float32), (448, 448))
    resize(np.ones((3000, 56), np.float32), (448,))
    assert len(sizes) > 6  # each of the three was cut
    assert max(sizes) <= LARGEST


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (2048, 49), (100, 64), (300, 200), (3, 300)])
def test_gram_is_the_transpose_times_the_matrix(shape):
    rows = np.random.default_rng(0).normal(size=shape)
    # Sums of up to 2048 products of float64, in another order.
    np.testing.assert_allclose(gram(rows), rows.T @ rows, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(40))
def test_leading_vector_is_that_of_lapack(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 80))
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    values = rng.normal(size=size) if seed % 2 else rng.exponential(size=size)
    matrix = (basis * values) @ basis.T
    value, vector = leading_vector((matrix + matrix.T) / 2)
    # Both are exact to a few roundings over the gap to the next eigenvalue, 0.01 or more here.
    assert value == pytest.approx(values.max(), abs=1e-12)
    own = basis[:, values.argmax()]
    np.testing.assert_allclose(vector * np.sign(vector @ own), own, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "values", [[0, 0, 0], [2, 2, 1], [2, -2, 1], [1, 0, -5], [-1, -2, -3]],
    ids=["zero", "two equal", "two opposite", "a larger negative one", "all negative"],
)  # fmt: skip
def test_leading_vector_where_squares_do_not_tell(values):
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    matrix = (basis * np.array(values, float)) @ basis.T
    value, vector = leading_vector((matrix + matrix.T) / 2)
    assert value == pytest.approx(max(values), abs=1e-12)
    np.testing.assert_allclose(matrix @ vector, value * vector, rtol=0, atol=1e-12)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-12)


def test_components_of_small_maps_are_made_in_small_pieces(sizes, monkeypatch):
    """LAPACK wakes threads for 49 rows already."""
    monkeypatch.delattr(np.linalg, "eigh")
    maps = np.random.default_rng(0).random((2, 2048, 49)).astype(np.float32)
    for method in (eigencam, kpca_cam):
        assert np.abs(method(maps)).max() > 0
    assert max(sizes) <= LARGEST
