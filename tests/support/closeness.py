"""How maps are compared: before resizing, relative to the reference's largest value."""

import numpy as np


def assert_close(actual, expected, tolerance, what):
    scale = np.abs(expected).max((1, 2), keepdims=True)
    assert (scale > 0).all(), f"{what}: an empty map proves nothing"
    difference = float((np.abs(actual - expected) / scale).max())
    assert difference <= tolerance, (
        f"{what}: {difference:.2e} of the maximum, {tolerance:.0e} allowed"
    )
