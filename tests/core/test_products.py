import numpy as np
import pytest

from gradcam_multi import products
from gradcam_multi.cam.gradients import weighted
from gradcam_multi.products import LARGEST, product
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


def test_maps_and_heatmaps_are_made_in_small_pieces(monkeypatch):
    """What a large piece would cost is the time of whatever runs next."""
    sizes = []
    matmul = np.matmul

    def counted(left, right, **kwargs):
        sizes.append(left.shape[-2] * left.shape[-1] * right.shape[-1])
        return matmul(left, right, **kwargs)

    monkeypatch.setattr(products.np, "matmul", counted)
    weighted(np.ones((2, 512)), np.ones((2, 512, 56 * 56), np.float32))
    resize(np.ones((2, 56, 56), np.float32), (448, 448))
    resize(np.ones((3000, 56), np.float32), (448,))
    assert len(sizes) > 6  # each of the three was cut
    assert max(sizes) <= LARGEST
