"""The blocks of a token model, found among its layers, and what the score says of their attention.

A block's score is what the model's own head makes of the tokens that leave that block, as if it
were the last one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod

import numpy as np

from gradcam_multi.cam.probe import Attended, Scores
from gradcam_multi.errors import UnsupportedError
from gradcam_multi.layers import Ends, entered_blocks, on_path, passages
from gradcam_multi.spec import (
    Array,
    Attentive,
    Block,
    BlockTrace,
    Folding,
    Inputs,
    Layer,
    Model,
    Trace,
)
from gradcam_multi.tokens import FoldedTrace, Sizes, fold, folding_of, grids_behind

_MIXERS = ("conv", "linear", "attention")


def attended_blocks(
    model: Model,
    inputs: Inputs,
    blocks: Sequence[Block],
    cotangents: Callable[[Mapping[str, Array]], Mapping[str, Array]],
) -> Iterator[Attended]:
    """Run the model once, and its head for each block's tokens; yield what `Attended` says.

    `cotangents` makes of a run's logits the score's derivative with respect to them. Raises
    UnsupportedError where tokens do not attend to all tokens of their block, one by one.
    """
    if not isinstance(model, Attentive):
        raise _without("which the adapter", f"{model.backend!r} does not give for a model like it")
    with model.trace_blocks(inputs, blocks) as trace:
        for place, (block, tokens) in enumerate(zip(blocks, trace.tokens, strict=True)):
            cotangent = trace.head(tokens, cotangents)
            found = Attended(*trace.attended(place, cotangent))
            if place == 0 and len(tokens) > 1:
                _check_items(trace, block, cotangent)
            cells = tokens[0, 0].size
            pairs = tuple(array.shape[2] for array in found)
            if pairs != (cells, cells):
                raise _without(
                    f"and at layer {block.attention!r}",
                    f"{pairs[0]} tokens attend to {pairs[1]} of the block's {cells} (windows, a "
                    "class token that alone attends, channels)",
                )
            yield found


def _check_items(trace: BlockTrace, block: Block, cotangent: Array) -> None:
    """Raise UnsupportedError where one item's cotangent reaches what is taken for other items."""
    alone = cotangent.copy()
    alone[1:] = 0
    gradient, _ = trace.attended(0, alone)
    if (np.abs(gradient[1:]) > 0).any():  # a NaN of another item's own says nothing
        raise _without(
            f"and at layer {block.attention!r}",
            "the items of a batch cannot be told from the heads",
            "explain them one by one, with batch_size=1",
        )


def laid_out(rows: Scores, trace: Trace, name: str, listed: Sequence[Layer], sizes: Sizes) -> Array:
    """Lay a value for each token of a layer, (N, tokens), over images of some sizes, (N, *grid).

    As the explained layer of `trace` lies, where that has as many tokens; else as the named one of
    the `listed` layers does. Raises LayerError where that cannot be told.
    """
    count, own = rows.shape[1], trace.activations[0].shape[2:]
    folding = trace.folding if isinstance(trace, FoldedTrace) else Folding(own)
    if folding.prefix + prod(folding.grid) != count:
        grids = grids_behind(listed)[name]
        folding = folding_of(name, count, grids, sizes) or Folding((count,))
    return fold(rows[:, None].astype(np.float32), folding)[:, 0]


def token_blocks(layers: Sequence[Layer], output: Ends = None) -> tuple[Block, ...]:
    """Return the blocks that lead to an output, in execution order.

    Raises UnsupportedError for a model without attention, and for one whose blocks do not hand on
    one and the same kind of tokens, so that the head cannot read each of them.
    """
    path = on_path(layers, output)
    entered = entered_blocks(layers, output)
    if not entered:
        raise _without("and the model", "has no block of attention with a residual around it")
    products, entries = [product for product, _ in entered], [entry for _, entry in entered]
    for before, after in pairwise(entries):
        if before is after:
            raise _without(
                f"and behind layer {before.name!r}",
                "several products attend to the same tokens: they are no blocks in a row",
            )
    leaving = [*entries[1:], _last(path, entries)]
    if not all(_alike(layer, leaving[-1]) for layer in leaving):
        shapes = dict.fromkeys(layer.shape for layer in leaving)
        raise _without(
            "and the model's blocks",
            f"make tokens of several shapes, {' and '.join(map(str, shapes))}, of which its head "
            "reads the last only",
        )
    places = {layer.name: place for place, layer in enumerate(path)}
    last = max(places[layer.name] for layer in leaving)
    pooling = [x for x in path[last + 1 :] if x.role == "attention"]
    if pooling:
        raise _without(
            f"and layer {pooling[-1].name!r}",
            "attends behind the last block: the paper takes the gradient of that attention instead",
        )
    pairs = zip(products, leaving, strict=True)
    return tuple(Block(product.name, layer.name) for product, layer in pairs)


def _last(path: Sequence[Layer], entries: Sequence[Layer]) -> Layer:
    """What leaves the last block: as far behind its last addition as with the block before."""
    last = entries[-1]
    known = _joins(path, last)
    if known:
        ways, joins = known
        if len(entries) == 1:
            return ways[joins[-1]]
        before = _joins(path, entries[-2])
        if before:
            others, places = before
            names = [layer.name for layer in others]
            here = names.index(last.name) if last.name in names else -1
            reached = [place for place in places if place <= here]
            place = joins[-1] + here - reached[-1] if reached else len(ways)
            if place < len(ways) and ways[place].kind == last.kind:
                return ways[place]
    raise _without(
        f"and behind layer {last.name!r}, which enters the last block,",
        "no addition is found that ends the block as the ones before it end",
    )


def _joins(path: Sequence[Layer], entry: Layer) -> tuple[list[Layer], list[int]] | None:
    """The layers that all of a block's tokens pass, and which of them add a branch to them.

    A branch holds a layer that mixes by weights; what a normalisation adds up holds none.
    """
    narrow = passages(path, entry)
    inside: set[str] = set()
    ways: list[Layer] = []
    joins: list[int] = []
    mixed = False
    for layer in path:
        if layer is not entry and inside.isdisjoint(layer.inputs):
            continue
        sources = len(inside.intersection(layer.inputs))
        inside.add(layer.name)
        if layer.name not in narrow:
            mixed = mixed or layer.role in _MIXERS
            continue
        if mixed and sources > 1 and layer.role == "other" and _alike(layer, entry):
            joins.append(len(ways))
        ways.append(layer)
        mixed = False
    return (ways, joins) if joins else None


def _alike(one: Layer, other: Layer) -> bool:
    """Whether two layers may be of one shape, as far as it is known."""
    if one.shape is None or other.shape is None:
        return False
    pairs = zip(one.shape, other.shape, strict=False)
    return len(one.shape) == len(other.shape) and all(n == m or None in (n, m) for n, m in pairs)


def _without(where: str, why: str, cure: str = "take another method") -> UnsupportedError:
    return UnsupportedError(
        f"the gradients of the blocks' attention were asked for, {where} {why}; {cure}"
    )
