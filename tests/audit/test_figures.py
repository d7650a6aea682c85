"""The figures of a map, against a resize and loops over pixels."""

import numpy as np
import pytest

from gradcam_multi.audit.figures import BORDER, CORNER, box_shares, figures
from gradcam_multi.metrics.localization import box_masks
from gradcam_multi.resize import resize

# Sums of float32 weights over some hundred pixels; the values are of the order of 1.
CLOSE = 1e-6


def share_by_pixels(cam, size, inside):
    """The share of a map's evidence on the pixels (row, column) for which `inside` holds."""
    evidence = resize(np.maximum(cam, 0)[None], size)[0].astype(np.float64)
    chosen = np.array([[inside(r + 0.5, c + 0.5) for c in range(size[1])] for r in range(size[0])])
    return evidence[chosen].sum() / evidence.sum()


@pytest.fixture(params=[((7, 5), (33, 40)), ((12, 12), (96, 96)), ((6, 6), (6, 6))], ids=str)
def case(request):
    grid, size = request.param
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, *grid)).astype(np.float32), size


def test_shares_are_those_of_the_resized_maps_pixels(case):
    cam, size = case
    height, width = size
    found = figures(cam, size)
    regions = {
        "top_left": lambda r, c: r < CORNER * height and c < CORNER * width,
        "top_right": lambda r, c: r < CORNER * height and c > (1 - CORNER) * width,
        "bottom_left": lambda r, c: r > (1 - CORNER) * height and c < CORNER * width,
        "bottom_right": lambda r, c: r > (1 - CORNER) * height and c > (1 - CORNER) * width,
    }
    for item in range(len(cam)):
        for name, inside in regions.items():
            expected = share_by_pixels(cam[item], size, inside)
            assert found.corners[name][item] == pytest.approx(expected, abs=CLOSE), name
        expected = share_by_pixels(
            cam[item], size,
            lambda r, c: not (BORDER * height < r < (1 - BORDER) * height
                              and BORDER * width < c < (1 - BORDER) * width),
        )  # fmt: skip
        assert found.border[item] == pytest.approx(expected, abs=CLOSE)


def test_box_shares_are_the_energy_in_the_boxes_masks(case):
    cam, size = case
    height, width = size
    boxes = [(1.5, 2.2, 4.5, 5.0), (0, 0, width, height), (-3, 1, 2.5, 3), (1, 1, 5, 6), None]
    asked = [
        None if box is None else (box[1] / height, box[0] / width, box[3] / height, box[2] / width)
        for box in boxes
    ]
    found = box_shares(cam, size, asked)
    masks = box_masks(boxes[:-1], size)
    for item, mask in enumerate(masks):
        expected = share_by_pixels(cam[item], size, lambda r, c, m=mask: m[int(r), int(c)])
        assert found[item] == pytest.approx(expected, abs=CLOSE)
    assert np.isnan(found[-1])


def test_a_box_that_holds_no_pixels_centre_has_no_share():
    cam = np.ones((2, 4, 4), np.float32)
    assert np.isnan(box_shares(cam, (8, 8), [(0.26, 0.3, 0.3, 0.9), (2.0, 0.0, 3.0, 1.0)])).all()


def test_peaks_are_the_centres_of_the_largest_cells():
    cam = np.random.default_rng(1).normal(size=(20, 3, 5)).astype(np.float32)
    for map_, peak in zip(cam, figures(cam, (30, 50)).peaks, strict=True):
        best = max((map_[r, c], r, c) for r in range(3) for c in range(5))
        assert peak == pytest.approx([(best[1] + 0.5) / 3, (best[2] + 0.5) / 5])


def test_entropy_is_that_of_the_cells_shares():
    cam = np.zeros((4, 2, 4), np.float32)
    cam[0, 1, 2] = 3  # one cell
    cam[1] = 5  # all alike
    cam[2, :, :2] = 1  # four of eight cells alike: log 4 / log 8
    cam[3] = [[1, 2, 3, 4], [0, -1, 2, 0]]
    shares = np.array([1, 2, 3, 4, 2]) / 12
    expected = [0, 1, 2 / 3, -sum(p * np.log(p) for p in shares) / np.log(8)]
    assert figures(cam, (8, 16)).entropy == pytest.approx(expected)


def test_a_map_without_evidence_has_no_figures_and_warns_of_nothing():
    found = figures(np.stack([np.zeros((3, 3)), -np.ones((3, 3))]).astype(np.float32), (9, 9))
    for values in (found.border, found.entropy, *found.corners.values()):
        assert np.isnan(values).all()
    assert np.isnan(found.peaks).all()


def test_the_unit_of_the_score_changes_nothing():
    cam = np.random.default_rng(2).random((3, 7, 7)).astype(np.float32)
    one, other = figures(cam, (224, 224)), figures(cam * np.float32(1e-20), (224, 224))
    assert one.border == pytest.approx(other.border)
    assert one.entropy == pytest.approx(other.entropy)
    assert (one.peaks == other.peaks).all()
