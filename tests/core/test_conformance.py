"""The kit on the reference itself: it must be able to pass."""

from numpy_case import NumpyCase


class TestNumpy(NumpyCase):
    pass
