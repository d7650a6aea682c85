"""What a trace checks of what it is given, and how gradients pass through half precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradcam_multi.errors import InputError, LayerNotOnPathError, TargetError, suggest
from gradcam_multi.spec import Array

_HALF_SCALE = 256.0
"""Cotangents are multiplied by it on their way through float16, whose smallest normal number is
6e-5; results are divided by it."""


def cotangent_for(name: str, value: Any, logits: Mapping[str, Array]) -> Array:
    """Return a cotangent of an output's logits. Raises TargetError where it does not fit."""
    names = list(logits)
    if name not in names:
        raise TargetError(
            f"the model has no output {name!r}; it has "
            f"{', '.join(map(repr, names))}{suggest(name, names)}"
        )
    cotangent = np.asarray(value, dtype=np.float32)
    if cotangent.shape != logits[name].shape:
        raise TargetError(
            f"a cotangent of shape {cotangent.shape} was given for output {name!r}; its logits "
            f"have {logits[name].shape}: give an array of this shape"
        )
    return cotangent


def activation_for(layer: str, value: Any, traced: Array) -> Array:
    """Return an activation to replay a layer with. Raises InputError where it does not fit."""
    expected = tuple(traced.shape[1:])
    activation = np.asarray(value, dtype=np.float32)
    if activation.shape[1:] != expected:
        raise InputError(
            f"an activation of shape {activation.shape} was given for layer {layer!r}; it takes "
            f"{('N', *expected)}, batch and channels first"
        )
    return activation


def all_reached(
    layers: Sequence[str], totals: Sequence[Array | None], outputs: Mapping[str, Any]
) -> tuple[Array, ...]:
    """Return the gradients. Raises LayerNotOnPathError where a layer has none."""
    found = []
    for layer, total in zip(layers, totals, strict=True):
        if total is None:
            raise LayerNotOnPathError(
                f"layer {layer!r} ran, but no gradient leads to it from "
                f"{', '.join(map(repr, outputs)) or 'no output'}; choose a layer that the "
                "output is computed from"
            )
        found.append(total)
    return tuple(found)


def scaled(pull: Callable[[np.float32], Sequence[Array | None]], half: bool) -> list[Array | None]:
    """Pull scaled cotangents back and undo the scale; `half` where float16 is on the way."""
    for scale in (_HALF_SCALE, 1.0) if half else (1.0,):
        # The scale is a power of two: it changes no digit where nothing under- or overflows.
        gradients = pull(np.float32(scale))
        if all(g is None or np.isfinite(g).all() for g in gradients):
            break
    if not half:
        return list(gradients)
    return [None if g is None else g / np.float32(scale) for g in gradients]
