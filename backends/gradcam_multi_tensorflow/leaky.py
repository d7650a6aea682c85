"""Keras layers that let negative values through, and compute that by ReLU."""

from __future__ import annotations

from typing import Any

import keras

RELUS = frozenset({"relu", "relu6"})
"""Functions of Keras' backends."""


def leaks(operation: Any) -> bool:
    """Whether an operation is a leaky ReLU, whose inner ReLUs the guided rule leaves alone."""
    if isinstance(operation, keras.layers.PReLU):
        return True
    return isinstance(operation, keras.layers.ReLU) and bool(operation.negative_slope)
