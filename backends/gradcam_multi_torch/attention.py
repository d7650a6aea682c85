"""What PyTorch's functions of attention were called with: values, and gradients head by head."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gradcam_multi.heads import einsum_heads, moved

# A row of weights adds up to 1; bfloat16 has 8 bits, and rounds each weight and their sum.
_TOLERANCE = 2e-2


class Heads(NamedTuple):
    """Values (..., keys, D), and what lays a gradient of the result out as (..., queries, D)."""

    values: Tensor
    laid_out: Callable[[Tensor], Tensor]


def heads_of(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Heads | None:
    """Return what a call of a function says of its heads.

    None for a function that is not known, and for a product none of whose operands has rows that
    add up to 1, as weights of attention do.
    """
    rule = _RULES.get(name)
    with torch.no_grad():
        return None if rule is None else rule(*args, **kwargs)


def _fused(
    query: Tensor, key: Tensor, value: Tensor, *_: Any, enable_gqa: bool = False, **__: Any
) -> Heads:
    if enable_gqa:  # several heads of queries read one of the values
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    return Heads(value.detach(), _same)


def _multi_head(
    query: Tensor, key: Tensor, value: Tensor, width: int, heads: int,
    in_weight: Tensor | None, in_bias: Tensor | None, bias_k: Any, bias_v: Any, add_zero_attn: Any,
    dropout_p: Any, out_weight: Tensor, *_: Any, v_proj_weight: Tensor | None = None,
    static_v: Any = None, **__: Any,
) -> Heads | None:  # fmt: skip
    """Take the function apart whose projections are inside: (L, N, E) in, (L, N, E) out."""
    weight = v_proj_weight if in_weight is None else in_weight[-width:]
    if value.ndim != 3 or weight is None or static_v is not None:
        return None
    values = F.linear(value.detach(), weight, None if in_bias is None else in_bias[-width:])

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], heads, -1).permute(1, 2, 0, 3)

    def laid_out(gradient: Tensor) -> Tensor:
        return split(gradient.float() @ out_weight.detach().float())

    return Heads(split(values), laid_out)


def _product(weights: Tensor, values: Tensor) -> Heads | None:
    return Heads(values.detach(), _same) if _are_weights(weights) else None


def _einsum(equation: str, *operands: Any) -> Heads | None:
    given = operands[0] if isinstance(operands[0], (tuple, list)) else operands
    for weights in (0, 1):
        axes = einsum_heads(equation, weights)
        if axes is None or not _are_weights(torch.einsum(moved(axes.weights), given[weights])):
            continue
        laid_out = partial(torch.einsum, moved(axes.result))
        return Heads(torch.einsum(moved(axes.values), given[1 - weights].detach()), laid_out)
    return None


def _are_weights(x: Tensor) -> bool:
    if x.ndim < 3 or not x.is_floating_point():
        return False
    rows = x.detach().float()
    return bool((rows >= 0).all() and ((rows.sum(-1) - 1).abs() < _TOLERANCE).all())


def _same(gradient: Tensor) -> Tensor:
    return gradient


_RULES: Mapping[str, Callable[..., Heads | None]] = {
    "scaled_dot_product_attention": _fused,
    "multi_head_attention_forward": _multi_head,
    "matmul": _product,
    "bmm": _product,
    "rmatmul": lambda values, weights: _product(weights, values),
    "einsum": _einsum,
}
"""By the functions' plain names."""
