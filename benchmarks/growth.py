"""The law by which a price grows: fixed + slope * size ^ exponent, fitted to medians."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

EXPONENTS = np.arange(0.5, 2.0001, 0.05)


class Law(NamedTuple):
    """Seconds, or whatever unit was fitted, as a function of a size; `error` is relative."""

    fixed: float
    slope: float
    exponent: float
    error: float


def fitted(sizes: Sequence[float], prices: Sequence[float]) -> Law:
    """Fit by least squares of relative errors, neither part negative.

    Every exponent is tried; the rest is linear. `error` is the root of the mean squared relative
    error. Raises ValueError for fewer than three sizes.
    """
    if len(sizes) < 3:
        raise ValueError(f"a law is fitted to three sizes or more, found {len(sizes)}")
    x, y = np.asarray(sizes, float), np.asarray(prices, float)
    x = x / x.max()  # powers of large sizes would drown the fixed part
    best = None
    for exponent in EXPONENTS:
        for terms in ((0, 1), (1,), (0,)):
            basis = np.stack([np.ones_like(x), x**exponent], 1)[:, terms] / y[:, None]
            found, *_ = np.linalg.lstsq(basis, np.ones_like(y), rcond=None)
            if (found < 0).any():
                continue
            error = float(np.sqrt(np.mean((basis @ found - 1) ** 2)))
            if best is None or error < best.error - 1e-9:
                parts = np.zeros(2)
                parts[list(terms)] = found
                slope = parts[1] / max(sizes) ** exponent
                best = Law(float(parts[0]), float(slope), float(exponent), error)
    assert best is not None
    return best
