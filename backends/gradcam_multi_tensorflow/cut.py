"""Functions made of just those operations of a traced graph that lead from some tensors to others.

Variables are captured by handle, so that a cut function computes with the weights as they are
when it runs. It is called without a gradient tape: a tape around it would compute the gradient
of every variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

Function = Callable[..., list[tf.Tensor]]


def ancestors(tensors: Iterable[tf.Tensor], stop: Iterable[tf.Tensor] = ()) -> list[tf.Operation]:
    """Return the operations that make the tensors, inputs before users, not going past `stop`."""
    fed = {tensor.name for tensor in stop}
    done: dict[str, tf.Operation] = {}
    waiting = [tensor.op for tensor in tensors if tensor.name not in fed]
    while waiting:
        op = waiting[-1]
        missing = [
            source.op
            for source in op.inputs
            if source.name not in fed and source.op.name not in done
        ]
        if missing and op.name not in done:
            waiting += missing
        else:
            waiting.pop()
            done.setdefault(op.name, op)
    return list(done.values())


def depending(operations: Iterable[tf.Operation], roots: Iterable[tf.Tensor]) -> set[str]:
    """Return the names of those operations that read one of the roots, however indirectly.

    `operations` come inputs before users.
    """
    seeds = {tensor.name for tensor in roots}
    found: set[str] = set()
    for op in operations:
        if any(source.name in seeds or source.op.name in found for source in op.inputs):
            found.add(op.name)
    return found


def beside(
    ends: Sequence[tf.Tensor], given: Sequence[tf.Tensor], inputs: Iterable[tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Return by name what the way from `given` to `ends` also reads, made from `inputs` alone."""
    entries = list(inputs)
    operations = ancestors(ends, stop=given)
    after = depending(operations, given)
    before = depending(operations, entries) - after
    fed, fresh = {tensor.name for tensor in given}, {tensor.name for tensor in entries}
    found = {
        source.name: source
        for op in operations
        if op.name in after
        for source in op.inputs
        if source.name not in fed and (source.op.name in before or source.name in fresh)
    }
    return found | {
        tensor.name: tensor
        for tensor in ends
        if tensor.name not in fed and tensor.op.name in before
    }


def cut(
    graph: Any,
    captures: Sequence[tuple[tf.Tensor, tf.Tensor]],
    feeds: Sequence[tf.Tensor],
    fetches: Sequence[tf.Tensor],
) -> Function:
    """Make a function from `feeds` to `fetches`, tensors of one traced graph.

    `captures` are pairs of an outer tensor and its placeholder in the graph.
    """
    feeds, wanted = _distinct(feeds), _distinct(fetches)
    fed = {tensor.name for tensor in feeds}
    operations = ancestors(wanted, stop=feeds)
    needed = {op.name for op in operations}
    captured = [(outer, inner) for outer, inner in captures if inner.op.name in needed]
    needed -= {inner.op.name for _, inner in captured}
    part = _extract(graph, needed)
    made = [tensor for tensor in wanted if tensor.name not in fed]

    def body(*values: tf.Tensor) -> list[tf.Tensor]:
        here = tf.compat.v1.get_default_graph()
        given = dict(zip((tensor.name for tensor in feeds), values, strict=True))
        mapped = given | {inner.name: here.capture(outer) for outer, inner in captured}
        mapped = {name: value for name, value in mapped.items() if name in used}
        results = tf.graph_util.import_graph_def(
            part, input_map=mapped, return_elements=[tensor.name for tensor in made], name=""
        )
        given |= zip((tensor.name for tensor in made), results or (), strict=True)
        return [given[tensor.name] for tensor in wanted]

    used = {source.name for op in operations for source in op.inputs}
    signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in feeds]
    concrete = tf.function(body, autograph=False).get_concrete_function(*signature)
    slots = [[tensor.name for tensor in wanted].index(tensor.name) for tensor in fetches]

    def run(*values: tf.Tensor) -> list[tf.Tensor]:
        results = concrete(*values)
        return [results[slot] for slot in slots]

    return run


def _extract(graph: Any, needed: set[str]) -> Any:
    whole = graph.as_graph_def()
    part = tf.compat.v1.GraphDef(versions=whole.versions, library=whole.library)
    for node in whole.node:
        if node.name in needed:
            kept = part.node.add()
            kept.CopyFrom(node)
            # Colocation and control edges may name operations that are left behind.
            kept.attr.pop("_class", None)
            inputs = [name for name in node.input if _stays(name, needed)]
            del kept.input[:]
            kept.input.extend(inputs)
    return part


def _stays(name: str, needed: set[str]) -> bool:
    return not name.startswith("^") or name[1:] in needed


def _distinct(tensors: Iterable[tf.Tensor]) -> list[tf.Tensor]:
    return list({tensor.name: tensor for tensor in tensors}.values())
