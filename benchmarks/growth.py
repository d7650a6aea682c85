"""The law by which a price grows: fixed + slope * size ^ exponent, fitted to medians."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

EXPONENTS = np.arange(0.5, 2.0001, 0.05)
PARTS = 3  # of a law: a fixed part, a slope and an exponent go through any three prices
FEWEST = PARTS + 1  # sizes
_F = (161.4, 18.51, 10.13, 7.709, 6.608, 5.987, 5.591, 5.318, 5.117, 4.965)
"""Snedecor's F that 5 % exceed, of 1 and 1, 2, ... degrees of freedom."""
_ROUNDING = 1e-9  # what least squares leave of exact data, relative


class Law(NamedTuple):
    """Seconds, or whatever unit was fitted, as a function of a size; `error` is relative.

    `least` and `most` are the ends of the exponents that the prices allow, at 95 %.
    """

    fixed: float
    slope: float
    exponent: float
    error: float
    least: float
    most: float


def fitted(sizes: Sequence[float], prices: Sequence[float]) -> Law:
    """Fit by least squares of relative errors, neither part negative.

    Every exponent is tried; the rest is linear. `error` is the root of the mean squared relative
    error. An exponent is allowed where an F test (Bates and Watts, Nonlinear Regression Analysis,
    1988, 6.1) does not tell its squared error from the least one: a few noisy prices with a large
    fixed part fit many exponents. Raises ValueError for fewer than four sizes.
    """
    if len(sizes) < FEWEST:
        raise ValueError(f"a law is fitted to four sizes or more, found {len(sizes)}")
    x, y = np.asarray(sizes, float), np.asarray(prices, float)
    x = x / x.max()  # powers of large sizes would drown the fixed part
    laws = [_best(x, y, exponent) for exponent in EXPONENTS]
    squares = np.array([error**2 for _, _, error in laws]) + _ROUNDING**2
    free = len(x) - PARTS
    allowed = EXPONENTS[squares <= squares.min() * (1 + _F[min(free, len(_F)) - 1] / free)]
    place = int(squares.argmin())
    fixed, slope, error = laws[place]
    exponent = float(EXPONENTS[place])
    slope /= max(sizes) ** exponent
    return Law(fixed, slope, exponent, error, float(allowed.min()), float(allowed.max()))


def _best(x: np.ndarray, y: np.ndarray, exponent: float) -> tuple[float, float, float]:
    """Return the fixed part, the slope and the relative error of the best law of an exponent."""
    found = []
    for terms in ((0, 1), (1,), (0,)):
        basis = np.stack([np.ones_like(x), x**exponent], 1)[:, terms] / y[:, None]
        solved, *_ = np.linalg.lstsq(basis, np.ones_like(y), rcond=None)
        if (solved >= 0).all():
            parts = np.zeros(2)
            parts[list(terms)] = solved
            error = float(np.sqrt(np.mean((basis @ solved - 1) ** 2)))
            found.append((float(parts[0]), float(parts[1]), error))
    return min(found, key=lambda law: law[2])
