"""Gradients that half precision does not swallow."""

from collections.abc import Sequence
from math import frexp, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradcam_multi.spec import Array

# Cotangents in float16 are scaled so that the largest is 2^START, far from both ends of the
# format (2^-24 to 2^16). Where the gradient then overflows the scale is taken back, where all of
# it is below 2^FLOOR it is raised, STEP binary orders at a time.
START, FLOOR, STEP, TRIES = 8, 0, 8, 6


def gradients(
    pairs: Sequence[tuple[Tensor, Array]],
    captured: Sequence[Tensor | GradientEdge],
    ends: Sequence[Tensor | GradientEdge] | None = None,
) -> list[Tensor | None]:
    """Multiply cotangents back to tensors; None for a tensor that no output depends on.

    `ends` are the places in the graph of the tensors to start from, where these are copies. The
    graph is kept. In float16 the cotangents are scaled by a power of two and the result,
    float32, is scaled back; every other dtype is left alone.
    """
    if not pairs:
        return [None] * len(captured)
    involved = [*captured, *(logits for logits, _ in pairs)]
    half = any(isinstance(t, Tensor) and t.dtype == torch.float16 for t in involved)
    peak = max(float(np.max(np.abs(array), initial=0)) for _, array in pairs)
    if not half or not 0 < peak < float("inf"):
        return _backward(pairs, captured, ends, 0)
    order = START - frexp(peak)[1]
    best: list[Tensor | None] | None = None
    for attempt in range(TRIES):
        found = _backward(pairs, captured, ends, order)
        largest = max((float(g.abs().max()) for g in found if g is not None), default=0.0)
        if not isfinite(largest):
            if best is not None:
                break
            order -= STEP
            continue
        best = [None if g is None else g.float() * 2.0**-order for g in found]
        if largest >= 2.0**FLOOR or (largest == 0 and attempt > 1):
            break
        order += STEP
    return best if best is not None else _backward(pairs, captured, ends, 0)


def _backward(
    pairs: Sequence[tuple[Tensor, Array]],
    captured: Sequence[Tensor | GradientEdge],
    ends: Sequence[Tensor | GradientEdge] | None,
    order: int,
) -> list[Tensor | None]:
    seeds = [
        torch.from_numpy(np.ldexp(np.asarray(array, np.float32), order)).to(
            logits.device, logits.dtype
        )
        for logits, array in pairs
    ]
    # A caller's autocast is for the forward run: the way back takes the dtypes it recorded.
    with torch.autocast(pairs[0][0].device.type, enabled=False), torch.enable_grad():
        given: dict[str, Any] = {"outputs": ends, "grad_outputs": seeds}
        if ends is None:
            # Of sums, since PyTorch imports SymPy to look at cotangents: 50 MB, half a second.
            sums = [(t * seed).sum() for (t, _), seed in zip(pairs, seeds, strict=True)]
            given = {"outputs": sums}
        return list(
            torch.autograd.grad(
                inputs=list(captured), retain_graph=True, allow_unused=True, **given
            )
        )
