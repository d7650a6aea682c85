"""Attributions in their own colours."""

import numpy as np
import pytest

import gradcam_multi as gm


def test_levels_by_hand():
    attribution = np.zeros((2, 3, 2, 2), np.float32)
    attribution[0, 0, 0, 1] = 1e-9  # red speaks for it, in whatever unit
    attribution[0, 2, 1, 0] = -5e-10
    shown = gm.attribution_pictures(attribution)
    assert shown.dtype == np.uint8
    scale = np.percentile(np.abs(attribution[0]), 99.5)
    assert 0.9e-9 < scale < 1e-9
    assert shown[0, 0, 1].tolist() == [255, 128, 128]
    assert shown[0, 1, 0].tolist() == [128, 128, round(127.5 - 127.5 * 5e-10 / scale)]
    assert (shown[1] == 128).all()  # nothing is grey


def test_few_values_are_not_cut_away():
    attribution = np.zeros((1, 1, 40, 40), np.float32)
    attribution[0, 0, 3, 4] = -2  # fewer than half a per cent
    shown = gm.attribution_pictures(attribution)
    assert shown.shape == (1, 40, 40, 3)
    assert shown[0, 3, 4].tolist() == [0, 0, 0]
    assert (shown[0, 5] == 128).all()


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 8, 8, 8)])
def test_what_is_no_picture(shape):
    with pytest.raises(gm.ImageError, match="of 1 or 3 channels"):
        gm.attribution_pictures(np.zeros(shape))
