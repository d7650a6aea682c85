"""What every adapter says alike of attention's heads: their axes, and why there are none."""

from typing import NamedTuple

from gradcam_multi.errors import UnsupportedError
from gradcam_multi.spec import Array


class EinsumHeads(NamedTuple):
    """The axes of an attention that einsum computes, by letters; "_" stands for an ellipsis.

    `before` are the axes as the equation has them, `after` as (..., rows, columns): of the weights,
    whose rows are queries, of the values, whose rows are keys, and of the result.
    """

    weights: tuple[str, str]
    values: tuple[str, str]
    result: tuple[str, str]


def einsum_heads(equation: str, weights: int) -> EinsumHeads | None:
    """Return the axes of an einsum of two operands, of which number `weights` holds the weights.

    None where it is no sum over keys of weights (queries, keys) times values (keys, D).
    """
    read, _, made = equation.replace(" ", "").replace("...", "_").partition("->")
    terms = read.split(",")
    if len(terms) != 2 or not made:
        return None
    a, v = terms[weights], terms[1 - weights]
    key, query, each = set(a) & set(v) - set(made), set(a) - set(v), set(v) - set(a)
    batch = "".join(axis for axis in a if axis not in key | query)
    single = all(len(axes) == 1 and axes != {"_"} for axes in (key, query, each))
    if not single or set(made) != {*batch, *query, *each}:
        return None
    (k,), (q,), (d,) = key, query, each
    return EinsumHeads((a, batch + q + k), (v, batch + k + d), (made, batch + q + d))


def moved(axes: tuple[str, str]) -> str:
    """Return the equation of an einsum that moves one operand's axes."""
    return "->".join(axes).replace("_", "...")


def no_heads(layer: str, found: str) -> UnsupportedError:
    """Say that an attention cannot be taken apart into heads, `found` with its verb."""
    return UnsupportedError(
        f"the gradient of the attention at layer {str(layer)!r} was asked for, and {found}; take "
        "another method"
    )


NO_WEIGHTS = (
    "it is no product of weights, whose rows add up to 1 (a softmax's), with values, nor a fused "
    "attention that is known"
)


def by_heads(array: Array, items: int, layer: str) -> Array:
    """Return (N, heads, tokens, D) of an array (..., tokens, D) whose first axis holds the items.

    Heads may be axes of their own, be joined to the items, or be one. Raises UnsupportedError for
    another number of items.
    """
    if array.ndim < 3 or array.shape[0] % items or (array.ndim > 3 and array.shape[0] != items):
        raise no_heads(layer, f"for {items} items it works on {array.shape}, as in windows")
    return array.reshape(items, -1, *array.shape[-2:])
