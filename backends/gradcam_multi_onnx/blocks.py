"""Blocks of attention of an ONNX model: gradients inside each, and of the head behind the last."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import LayerNotOnPathError
from gradcam_multi.heads import NO_WEIGHTS, by_heads, no_heads
from gradcam_multi.spec import Array, Block
from gradcam_multi_onnx.attention import heads_of
from gradcam_multi_onnx.autodiff.registry import Registry
from gradcam_multi_onnx.autodiff.walk import differentiate
from gradcam_multi_onnx.graph import Graph, reads
from gradcam_multi_onnx.plan import Backward, Failure, Plan
from gradcam_multi_onnx.replay import Tail
from gradcam_multi_onnx.session import as_float
from gradcam_multi_onnx.trace import OnnxTrace, channels_back, channels_first

Derivatives = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class BlockPlan(Plan):
    """What runs a model with its blocks kept, and differentiates the head and each block.

    `blocks` hold names of values. Raises FreeExtent as `Plan`, and UnsupportedError where a block
    cannot be differentiated.
    """

    def __init__(
        self, graph: Graph, targets: tuple[str, ...], logits: Mapping[str, str],
        registry: Registry | None = None, *, blocks: Sequence[Block],
    ) -> None:  # fmt: skip
        self.blocks = tuple(blocks)
        self.heads = []
        for block in blocks:
            heads = heads_of(graph, block.attention)
            if heads is None:
                raise no_heads(block.attention, NO_WEIGHTS)
            self.heads.append(heads)
        self.pulls = tuple(
            Backward(graph, differentiate(graph, (block.attention,), block.tokens, referenced=True))
            for block in blocks
        )
        fixed = (graph.variable - graph.dependents(targets)) | set(targets)
        behind = graph.between(logits.values(), fixed)
        beside = {name for node in behind for name in reads(node)} & fixed  # read by the head, too
        self.kept = {*(b.tokens for b in blocks), *(h.read for h in self.heads), *beside}
        super().__init__(graph, targets, logits, registry)

    @cached_property
    def head(self) -> Tail:
        """What runs on behind the last block, and tells what the gradients there read."""
        (last,) = self.targets
        moving = self.graph.dependents([last])
        made = {*self.logits.values()} & moving
        for each in self.backward.values():
            if isinstance(each, Backward):
                made |= {*each.gradient.reads} & moving
        return Tail(self.graph, last, sorted(made - {last}))


class OnnxBlocks(OnnxTrace):
    """Blocks of a run; implements the contract's `BlockTrace`."""

    _plan: BlockPlan

    @property
    def tokens(self) -> tuple[Array, ...]:
        """What leaves each block, (N, C, *grid) float32."""
        return self.activations

    def head(self, tokens: Array, cotangents: Derivatives) -> Array:
        """Run the part behind the last block with other tokens; return the derivative by them."""
        (last,), axes = self._plan.targets, self._axes[-1]
        own = [channels_first(run[last], axes) for run in self._runs]
        parts = self._parts(np.asarray(tokens), own, "the tokens")
        values = [channels_back(part, axes) for part in parts]
        runs = [
            {**run, last: value, **self._plan.head(value, run)}
            for value, run in zip(values, self._runs, strict=True)
        ]
        logits = {
            output: [run[value].reshape(before[output].shape) for run, before in self._paired(runs)]
            for output, value in self._plan.logits.items()
        }
        asked = cotangents({output: self._whole(each) for output, each in logits.items()})
        found: list[list[NDArray[Any]]] = []
        for output, cotangent in asked.items():
            backward, value = self._plan.backward[output], self._plan.logits[output]
            if isinstance(backward, Failure):
                if issubclass(backward.kind, LayerNotOnPathError):
                    continue
                raise backward.error()
            cut = self._parts(np.asarray(cotangent), logits[output], f"the cotangent of {output!r}")
            found.append([
                backward(part.reshape(run[value].shape), run)[last]
                for part, run in zip(cut, runs, strict=True)
            ])  # fmt: skip
        if not found:
            raise LayerNotOnPathError(
                f"{' and '.join(map(repr, asked)) or 'no output'} does not depend on layer "
                f"{last!r}, which ends the last block; take another method"
            )
        sums = [np.sum(each, axis=0) for each in zip(*found, strict=True)]
        return self._whole([channels_first(each, axes) for each in sums])

    def _paired(self, runs: Sequence[dict[str, NDArray[Any]]]) -> Any:
        return zip(runs, self._runs, strict=True)

    def attended(self, block: int, cotangent: Array) -> tuple[Array, Array]:
        """Multiply a cotangent of a block's tokens back to its attention; return the values too."""
        names, heads, axes = self._plan.blocks[block], self._plan.heads[block], self._axes[block]
        own = [channels_first(run[names.tokens], axes) for run in self._runs]
        parts = self._parts(np.asarray(cotangent), own, "the cotangent")
        found = []
        for part, run in zip(parts, self._runs, strict=True):
            pulled = self._plan.pulls[block](channels_back(part, axes), run)[names.attention]
            laid = heads.result(pulled), heads.values(as_float(run[heads.read]))
            found.append([by_heads(array, len(part), names.attention) for array in laid])
        gradient, values = (self._whole(each) for each in zip(*found, strict=True))
        return gradient, values
