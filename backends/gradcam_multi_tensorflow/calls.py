"""Calls of Keras operations, as they are noted on every backend: who called whom, how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gradcam_multi_tensorflow import roles


@dataclass(eq=False)
class Call:
    """One call of one Keras operation.

    `path` is relative to the traced model, which has "" itself. `start` and `end` count what had
    run before and after it; `finish` is its rank in order of completion; `count` is its number
    among the calls of its path, from 1.
    """

    operation: Any
    path: str
    parent: Call | None
    start: int
    end: int = 0
    finish: int = 0
    inputs: tuple[Any, ...] = ()
    outputs: tuple[Any, ...] = ()
    composite: bool = False
    count: int = 1


def path_below(parent: Call | None, operation: Any) -> str:
    """Return the path of an operation that another one calls."""
    if parent is None:
        return ""
    return f"{parent.path}/{operation.name}" if parent.path else str(operation.name)


def parts(layer: Any) -> Iterator[Any]:
    """Yield every layer below a layer, at any depth."""
    for part in getattr(layer, "_layers", ()):  # Keras' public lists go one level down only
        yield part
        yield from parts(part)


@contextmanager
def losses_kept(model: Any) -> Iterator[None]:
    """Put the losses that the model's layers hold from their last run back at the end.

    A trace would leave symbolic ones, or none.
    """
    losses = [
        (layer, list(layer._losses), set(layer._loss_ids))
        for layer in (model, *parts(model))
        if hasattr(layer, "_loss_ids")
    ]
    try:
        yield
    finally:
        for layer, kept, ids in losses:
            layer._losses[:] = kept  # in place: assigning an attribute would track it
            layer._loss_ids.clear()
            layer._loss_ids.update(ids)


def unique(path: str, counts: Counter[str]) -> str:
    """Return the path, numbered from its second use on."""
    counts[path] += 1
    return path if counts[path] == 1 else f"{path}#{counts[path]}"


def labels(calls: list[Call], counts: Counter[str]) -> dict[int, str]:
    """Return the names of calls by their ids, numbered in the order of the model's wiring."""
    order = _wiring_order(calls)
    return {
        id(call): unique(call.path, counts) for call in sorted(calls, key=lambda call: order[call])
    }


def leaves(calls: Iterable[Call]) -> dict[int, Call]:
    """Return those calls that are one operation to their reader, whatever runs inside, by id.

    A user's layer is not, even if no Keras layer runs inside it: its raw operations are listed,
    since a convolution or a matrix product among them decides about the default layer.
    """
    return {id(call): call for call in calls if call.parent is not None and _is_leaf(call)}


def outer_leaf(call: Call | None, known: Mapping[int, Call]) -> Call | None:
    """Return the nearest call from this one outwards that is a leaf, or None."""
    while call is not None and id(call) not in known:
        call = call.parent
    return call


def _is_leaf(call: Call) -> bool:
    if roles.of_class(call.operation) is not None:
        return True
    return not call.composite and roles.of_keras_itself(call.operation)


def _wiring_order(calls: list[Call]) -> dict[Call, tuple[int, ...]]:
    """Order calls as their model was written, which decides what is a layer's second call.

    Keras runs the branches of a functional model in an order of its own; the nodes of a layer
    keep the order in which it was called. Elsewhere the order is that of execution.
    """
    siblings: dict[tuple[int, int], list[Call]] = {}
    for call in calls:
        siblings.setdefault((id(call.parent), id(call.operation)), []).append(call)
    order: dict[Call, tuple[int, ...]] = {}
    for place, call in enumerate(calls):
        same = siblings[id(call.parent), id(call.operation)]
        rank = same.index(call)
        if len(same) > 1 and call.parent is not None:
            ranks = _wired(call.parent.operation, call.operation)
            rank = ranks[rank] if len(ranks) == len(same) else rank
        before = order[call.parent] if call.parent is not None else ()
        order[call] = (*before, rank, place)
    return order


def _wired(model: Any, operation: Any) -> list[int]:
    """Return, for each run of an operation in a functional model, which of its calls that is."""
    # Keras has no public view of its nodes; without these the order of execution stands.
    depths = getattr(model, "_nodes_by_depth", {})
    run = [
        node
        for depth in sorted(depths, reverse=True)
        for node in depths[depth]
        if node.operation is operation
    ]
    nodes = [node for node in getattr(operation, "_inbound_nodes", ()) if node in run]
    return [nodes.index(node) for node in run] if len(nodes) == len(run) else []


def output_names(
    flat: list[tuple[tuple[Any, ...], Any]], keys: list[Any], calls: list[Call], key_of: Any
) -> list[str]:
    """Name outputs by their keys, else by the layers that make them, as Keras does.

    `flat` are the outputs with their paths, `keys` and `key_of` what tells tensors apart.
    """
    root = calls[0] if calls else None
    makers = {
        key_of(tensor): call.operation.name
        for call in calls
        if root is not None and call.parent is root
        for tensor in call.outputs
    }
    keyed = any(isinstance(step, str) for path, _ in flat for step in path)
    counts: Counter[str] = Counter()
    names = []
    for place, ((path, _), key) in enumerate(zip(flat, keys, strict=True)):
        plain = "output" if len(flat) == 1 else f"output_{place}"
        joined = "/".join(map(str, path))
        names.append(unique(joined if keyed else makers.get(key, plain), counts))
    return names
