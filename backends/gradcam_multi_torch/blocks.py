"""One run of a module with its blocks of attention kept, and gradients between them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradcam_multi.errors import LayerNotOnPathError
from gradcam_multi.heads import NO_WEIGHTS, by_heads, no_heads
from gradcam_multi.spec import Array, Block
from gradcam_multi_torch.attention import Heads, heads_of
from gradcam_multi_torch.recording import Operation, Output
from gradcam_multi_torch.scaling import gradients
from gradcam_multi_torch.trace import Capture, Forward, TorchTrace, to_numpy
from gradcam_multi_torch.watch import Watch
from gradcam_multi_torch.wording import refused

Derivatives = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class TorchBlocks(TorchTrace):
    """Blocks of a run; implements the contract's `BlockTrace`.

    `operations` are what leaves each block and, behind these, each block's attention.
    """

    def __init__(
        self,
        forward: Forward,
        operations: Sequence[Operation],
        outputs: Sequence[Output],
        guided: bool,
        *,
        blocks: Sequence[Block],
    ) -> None:
        self._blocks = blocks
        self._heads: list[Heads | None] = [None] * len(blocks)
        products = operations[len(blocks) :]
        seen = [
            Watch(product.call, called=self._keeper(place))
            for place, product in enumerate(products)
            if product.call is not None and product.call.function is not None
        ]
        super().__init__(forward, operations, outputs, guided, seen)

    def _keeper(self, place: int) -> Callable[[str, tuple[Any, ...], dict[str, Any]], None]:
        def called(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._heads[place] = heads_of(name, args, kwargs)

        return called

    @cached_property
    def tokens(self) -> tuple[Array, ...]:
        """What leaves each block, (N, C, *grid) float32."""
        self._alive(self._logits)
        kept = self._captures[: len(self._blocks)]
        return tuple(self._to_core(capture, capture.tensor) for capture in kept)

    def head(self, tokens: Array, cotangents: Derivatives) -> Array:
        """Run again with other tokens behind the last block; return the derivative by them."""
        capture, given = self._exchanged(self._blocks[-1].tokens, tokens)
        in_place, leaf = capture.operation.in_place, given.requires_grad_()

        def exchange(made: Tensor) -> Tensor:
            torch.set_grad_enabled(True)  # until the run ends, as where a layer is kept
            if in_place and made.shape == leaf.shape and not made._is_view():
                return made.detach_().copy_(leaf)
            return leaf.clone()

        watch = Watch(capture.operation.place, exchange, in_place=in_place)
        _, logits = self._run(len(tokens), [watch])
        asked = cotangents({name: to_numpy(tensor) for name, tensor in logits.items()})
        pairs = [(logits[name], array) for name, array in self._checked(asked, logits)]
        found = _pulled([pair for pair in pairs if pair[0].requires_grad], leaf)
        if found is None:
            raise LayerNotOnPathError(
                f"output {' or '.join(map(repr, asked)) or 'none'} does not depend on layer "
                f"{capture.operation.layer.name!r}, which ends the last block; take another method"
            )
        return self._to_core(capture, found)

    def attended(self, block: int, cotangent: Array) -> tuple[Array, Array]:
        """Multiply a cotangent of a block's tokens back to its attention; return the values too."""
        self._alive(self._logits)
        end, product = self._captures[block], self._captures[len(self._blocks) + block]
        name, heads = product.operation.layer.name, self._heads[block]
        if heads is None:
            raise no_heads(name, NO_WEIGHTS)
        assert end.tensor is not None
        pair = end.tensor, self._from_core(end, cotangent)
        found = _pulled([pair], product.source, end.source)
        if found is None:
            raise no_heads(name, f"layer {end.operation.layer.name!r} does not depend on it")
        items = len(cotangent)
        with torch.no_grad():
            arrays = [to_numpy(tensor) for tensor in (heads.laid_out(found), heads.values)]
        gradient, values = (by_heads(array, items, name) for array in arrays)
        return gradient, values

    def release(self) -> None:
        """Let go of every tensor and of the graph."""
        super().release()
        self._heads = [None] * len(self._blocks)

    @staticmethod
    def _from_core(capture: Capture, array: Array) -> Array:
        """Lay out (N, C, *grid) as the model does."""
        layer = capture.operation.layer
        if layer.channel_axis is None:
            return array
        return np.moveaxis(array, (0, 1), (layer.batch_axis, layer.channel_axis))


def _pulled(pairs: Any, source: Any, end: Any = None) -> Tensor | None:
    """Multiply cotangents back to one place in the graph."""
    if not pairs or not (end is not None or pairs[0][0].requires_grad):
        return None
    try:
        with torch.inference_mode(False):
            return gradients(pairs, [source], None if end is None else [end])[0]
    except RuntimeError as error:
        if refusal := refused(error):
            raise refusal from error
        raise
