"""Blocks of attention of a traced model: gradients inside each, and of the head behind the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from gradcam_multi.errors import LayerNotOnPathError, UnsupportedError
from gradcam_multi.heads import NO_WEIGHTS, by_heads, einsum_heads, moved, no_heads
from gradcam_multi.spec import Array, Block
from gradcam_multi_tensorflow import checks
from gradcam_multi_tensorflow.axes import channels_first
from gradcam_multi_tensorflow.cut import Function, beside, cut
from gradcam_multi_tensorflow.graph import Graph
from gradcam_multi_tensorflow.listing import Node
from gradcam_multi_tensorflow.trace import float32, from_core, to_core

Derivatives = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Lay = Callable[[Array], Array]

_HANDED = frozenset("Cast Identity IdentityN Reshape StopGradient".split())
"""Operations that hand weights on as they are."""


@dataclass(frozen=True)
class Heads:
    """An attention's result and values in the graph, and what lays each out, (..., tokens, D)."""

    result: tf.Tensor
    values: tf.Tensor
    lay_result: Lay
    lay_values: Lay


@dataclass(frozen=True)
class Part:
    """A gradient as a function of what it is fed with and of values of the run, by their names."""

    run: Function
    read: tuple[str, ...]


class BlockPlan:
    """Functions for some blocks; raises UnsupportedError where one cannot be differentiated."""

    def __init__(self, graph: Graph, tokens: Sequence[Node], attention: Sequence[Node]) -> None:
        self.graph, self.tokens = graph, tuple(tokens)
        self.names = tuple(node.layer.name for node in attention)
        self.heads = tuple(_heads(node) for node in attention)
        self._kept: dict[str, tf.Tensor] = {}
        pairs = zip(self.tokens, self.heads, self.names, strict=True)
        self.pulls = tuple(self._pull(node, each, name) for node, each, name in pairs)
        self.head = {name: self._head(name, z) for name, z in graph.logits.items()}
        for each in (*(n.tensor for n in self.tokens), *(h.values for h in self.heads)):
            self._kept[each.name] = each
        feeds = list(graph.inputs.values())
        self._forward = cut(graph.graph, graph.captures, feeds, list(self._kept.values()))

    def forward(self, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return all values that are kept of a run, by the names of their tensors."""
        return dict(zip(self._kept, self._forward(*inputs), strict=True))

    def _pull(self, node: Node, heads: Heads, name: str) -> Part:
        part = self._gradient(node.tensor, heads.result, ())
        if part is None:
            raise no_heads(name, f"layer {node.layer.name!r} does not depend on it")
        return part

    def _head(self, output: str, logits: tf.Tensor) -> Part | str | None:
        """The gradient of one output behind the last block; None where it does not depend on it."""
        last = self.tokens[-1].tensor
        if not logits.dtype.is_floating:
            return f"output {output!r} holds {logits.dtype.name}, which no gradient leads to"
        try:
            return self._gradient(logits, last, (last,))
        except UnsupportedError as error:
            return str(error)

    def _gradient(
        self, end: tf.Tensor, start: tf.Tensor, given: tuple[tf.Tensor, ...]
    ) -> Part | None:
        """From a cotangent of `end` to the gradient at `start`, with other values of `given`."""
        graph = self.graph
        with graph.graph.as_default():
            cotangent = tf.compat.v1.placeholder(end.dtype, end.shape)
            try:
                (found,) = tf.gradients([end], [start], [cotangent], name="gradcam_multi")
            except (LookupError, NotImplementedError) as error:
                cause = " ".join(str(error).split())[:200]
                raise UnsupportedError(
                    f"{end.name!r} cannot be differentiated: {cause}; take another method"
                ) from error
            if found is None:
                return None
            found = tf.convert_to_tensor(found)
        feeds = [*given, cotangent]
        read = beside([found], feeds, graph.inputs.values())
        self._kept |= read
        run = cut(graph.graph, graph.captures, [*feeds, *read.values()], [found])
        return Part(run, tuple(read))


class GraphBlocks:
    """Blocks of a run; implements the contract's `BlockTrace`."""

    def __init__(self, plan: BlockPlan, inputs: Sequence[tf.Tensor]) -> None:
        self._plan, self._inputs = plan, list(inputs)
        self._values: dict[str, tf.Tensor] | None = plan.forward(inputs)
        self._side: list[tf.Tensor] | None = None

    @property
    def tokens(self) -> tuple[Array, ...]:
        """What leaves each block, (N, C, *grid) float32."""
        kept = self._open()
        return tuple(to_core(kept[node.tensor.name], node) for node in self._plan.tokens)

    def head(self, tokens: Array, cotangents: Derivatives) -> Array:
        """Run the part behind the last block with other tokens; return the derivative by them."""
        kept, node = self._open(), self._plan.tokens[-1]
        value = from_core(np.asarray(tokens), node)
        replay = self._plan.graph.replay(node)
        if replay.side is not None and self._side is None:
            self._side = replay.side(*self._inputs)
        results = replay.run(value, *(self._side or ()))
        names = list(self._plan.graph.outputs)
        logits = {name: float32(z) for name, z in zip(names, results, strict=True)}
        asked, total = cotangents(logits), None
        for name, array in asked.items():
            cotangent, part = checks.cotangent_for(name, array, logits), self._plan.head[name]
            if isinstance(part, str):
                raise UnsupportedError(part)
            if part is not None:
                dtype = self._plan.graph.logits[name].dtype
                found = self._pulled(part, [value], cotangent, dtype, kept)
                total = found if total is None else total + found
        if total is None:
            raise LayerNotOnPathError(
                f"output {' or '.join(map(repr, asked)) or 'none'} does not depend on layer "
                f"{node.layer.name!r}, which ends the last block; take another method"
            )
        return channels_first(total, node.layer.channel_axis)

    def attended(self, block: int, cotangent: Array) -> tuple[Array, Array]:
        """Multiply a cotangent of a block's tokens back to its attention; return the values too."""
        kept, node, heads = self._open(), self._plan.tokens[block], self._plan.heads[block]
        given = np.asarray(cotangent)
        if node.layer.channel_axis is not None:
            given = np.moveaxis(given, 1, node.layer.channel_axis)
        found = self._pulled(self._plan.pulls[block], [], given, node.tensor.dtype, kept)
        laid = heads.lay_result(found), heads.lay_values(float32(kept[heads.values.name]))
        gradient, values = (by_heads(a, len(given), self._plan.names[block]) for a in laid)
        return gradient, values

    def close(self) -> None:
        """Free what the run kept."""
        self._values, self._side, self._inputs = None, None, []

    def _open(self) -> dict[str, tf.Tensor]:
        if self._values is None:
            raise RuntimeError("the trace has ended; use it inside its with block")
        return self._values

    @staticmethod
    def _pulled(
        part: Part, given: list[tf.Tensor], cotangent: Array, dtype: Any, kept: Any
    ) -> Array:
        read = [kept[name] for name in part.read]

        def pull(scale: np.float32) -> list[Array]:
            return [float32(part.run(*given, tf.cast(cotangent * scale, dtype), *read)[0])]

        (found,) = checks.scaled(pull, dtype == tf.float16)
        assert found is not None  # `pull` gives an array
        return found


def block_plan(graph: Graph, find: Callable[[str], Node], blocks: Sequence[Block]) -> BlockPlan:
    """Return the functions for some blocks, made once."""
    names = tuple(name for block in blocks for name in (block.attention, block.tokens))
    nodes = [find(name) for name in names]
    with graph.lock:
        if names not in graph.blocks:
            graph.blocks.clear()  # most callers have one choice of blocks
            graph.blocks[names] = BlockPlan(graph, nodes[1::2], nodes[::2])
        made: BlockPlan = graph.blocks[names]
        return made


def _heads(node: Node) -> Heads:
    """The product of weights and values nearest before a layer's result, the result included."""
    waiting, seen = deque([node.tensor.op]), set()
    while waiting:
        op = waiting.popleft()
        if op.name in seen:
            continue
        seen.add(op.name)
        found = _einsum(op) if op.type == "Einsum" else _product(op)
        if found is not None:
            return found
        waiting += [source.op for source in op.inputs]
    raise no_heads(node.layer.name, NO_WEIGHTS)


def _einsum(op: Any) -> Heads | None:
    equation = op.get_attr("equation").decode()
    for weights in range(len(op.inputs)):
        axes = einsum_heads(equation, weights)
        if axes is not None and axes.weights[0][-1] == axes.weights[1][-1]:
            if _softmax(op.inputs[weights]):
                values = op.inputs[1 - weights]
                return Heads(op.outputs[0], values, _moving(axes.result), _moving(axes.values))
    return None


def _product(op: Any) -> Heads | None:
    if not op.type.startswith("BatchMatMul") or not _softmax(op.inputs[0]):
        return None
    if op.get_attr("adj_x"):
        return None
    turned = op.get_attr("adj_y")
    return Heads(op.outputs[0], op.inputs[1], _same, _turned if turned else _same)


def _softmax(tensor: tf.Tensor) -> bool:
    op = tensor.op
    while op.type in _HANDED:
        op = op.inputs[0].op
    return bool(op.type == "Softmax")


def _moving(axes: tuple[str, str]) -> Lay:
    equation = moved(axes)
    return lambda array: np.einsum(equation, array)


def _same(array: Array) -> Array:
    return array


def _turned(array: Array) -> Array:
    return np.swapaxes(array, -1, -2)
