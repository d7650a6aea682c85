"""From what was noted of a run on torch or JAX to the list of the model's layers.

Edges follow the tensors from what made them to what reads them. Between Keras' calls a model may
compute by its framework alone, which nobody sees: a tensor of unknown origin is taken to come
from all that was made since its caller began, and not read yet.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import keras

from gradcam_multi.spec import Layer, Role, TensorSpec
from gradcam_multi_tensorflow import axes, roles
from gradcam_multi_tensorflow.calls import Call, labels, leaves, outer_leaf, output_names, unique
from gradcam_multi_tensorflow.inputs import dtype_of
from gradcam_multi_tensorflow.recording import (
    Computed,
    Node,
    Output,
    Recorder,
    Recording,
    origins,
    rectified,
)
from gradcam_multi_tensorflow.watch import Place

_ACTIVATIONS: dict[str, Literal["softmax", "sigmoid"]] = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "sigmoid": "sigmoid",
}
_RESHAPES = frozenset("reshape squeeze expand_dims cast copy".split())


def recorded(recorder: Recorder, inputs: dict[str, Any], result: Any) -> Recording:
    """List what a recorder noted, of a run from the inputs to the result."""
    return _Listing(recorder, inputs).recording(result)


@dataclass
class _Entry:
    label: str
    kind: str
    role: Role
    tensor: Any
    place: Place
    index: int
    inputs: tuple[int, ...]
    reads: tuple[Any, ...]
    by_function: bool = False
    stated: int | None = None
    order: tuple[int, ...] | None = None
    decoded: bool = False
    axis: int | None = None
    scope: str = ""


class _Listing:
    def __init__(self, recorder: Recorder, inputs: dict[str, Any]) -> None:
        self.timeline, self.calls = recorder.timeline, recorder.calls
        self.leaves = leaves(self.calls)
        self.given = inputs
        self.batch = next(iter(inputs.values())).shape[0]
        self.counts: Counter[str] = Counter()
        kept = [call for call in self.calls if outer_leaf(call.parent, self.leaves) is None]
        self.labels = labels(kept, self.counts)
        self.entries: list[_Entry] = []
        self.by_tensor: dict[int, int] = {}  # tensor -> its entry
        self.sources: dict[int, tuple[int, ...]] = {id(t): () for t in inputs.values()}
        self.unread: set[int] = set()
        self.first_of: dict[int, int] = {}  # call -> entries that were there when it began
        self.aliases: dict[str, int] = {}

    def recording(self, result: Any) -> Recording:
        started = sorted(self.calls, key=lambda call: call.start)
        for position, item in enumerate(self.timeline):
            while started and started[0].start <= position:
                self.first_of[id(started.pop(0))] = len(self.entries)
            if isinstance(item, Computed):
                self._function(item)
            elif outer_leaf(item.parent, self.leaves) is None:
                self._call(item)
        found = Recording()
        input_axes = self._follow_axes()
        found.inputs = tuple(
            TensorSpec(
                name, self._shape(t), dtype_of(t), axes.layout_of(input_axes.get(id(t)), t.ndim)
            )
            for name, t in self.given.items()
        )
        self._name()
        flat = keras.tree.flatten_with_path(result)
        names = output_names(flat, [id(t) for _, t in flat], self.calls, id)
        makers: dict[int, str] = {}
        roots, every = origins(self.timeline, self.given), frozenset(self.given)
        found.rectified = rectified(self.timeline)
        for name, (_, tensor) in zip(names, flat, strict=True):
            if not keras.ops.is_tensor(tensor) or dtype_of(tensor) == "bool":
                continue
            place, activation = self._activation(tensor)
            spec = TensorSpec(name, self._shape(tensor), dtype_of(tensor), activation=activation)
            found.outputs += (Output(spec, place, roots.get(id(tensor), every)),)
            for source in self.sources.get(id(tensor), ())[:1]:
                makers.setdefault(source, name)
        for number, entry in enumerate(self.entries):
            layer = Layer(
                entry.label,
                entry.kind,
                entry.role,
                self._shape(entry.tensor),
                entry.axis,
                tuple(self.entries[source].label for source in entry.inputs),
                makers.get(number),
            )
            dtype = dtype_of(entry.tensor)
            found.nodes[entry.label] = Node(layer, entry.place, entry.index, dtype)
        found.aliases = {name: self.entries[entry].label for name, entry in self.aliases.items()}
        return found

    def _shape(self, tensor: Any) -> tuple[int | None, ...]:
        shape = tuple(map(int, tensor.shape))
        return (None, *shape[1:]) if shape and shape[0] == self.batch else shape

    def _origin(self, item: Call | Computed, any_origin: bool) -> tuple[int, ...] | None:
        """Return the entries that an item reads; None where it does not depend on the inputs."""
        known = [self.sources[id(t)] for t in item.inputs if id(t) in self.sources]
        if known:
            return tuple(dict.fromkeys(entry for group in known for entry in group))
        if not any_origin:
            return None
        first = self.first_of.get(id(item.parent), 0)
        since = tuple(sorted(entry for entry in self.unread if entry >= first))
        return since or ((len(self.entries) - 1,) if self.entries else ())

    def _function(self, item: Computed) -> None:
        # Weights have no batch; what has one and comes from nowhere was made out of sight.
        batched = any(t.ndim > 1 and t.shape[0] == self.batch for t in item.inputs)
        if outer_leaf(item.parent, self.leaves) is not None:
            return
        origin = self._origin(item, batched)
        if origin is None:
            return
        operands = sum(id(tensor) in self.sources for tensor in item.inputs)
        role = roles.of_product(roles.of_functions([item.name]), item.name, operands)
        for index, tensor in enumerate(item.outputs):
            if id(tensor) in self.sources:
                continue
            self.sources[id(tensor)] = origin
            if role == "identity" or not keras.backend.is_float_dtype(dtype_of(tensor)):
                continue
            scope = item.parent.path if item.parent is not None else ""
            entry = _Entry(
                "", item.name, role, tensor, item.place, index, origin, item.inputs, True
            )
            entry.stated, entry.order, entry.scope = item.axis, item.order, scope
            entry.decoded = item.name == "reshape"
            self._add(entry)

    def _call(self, call: Call) -> None:
        label = self.labels[id(call)]
        leaf = id(call) in self.leaves
        for index, tensor in enumerate(call.outputs):
            name = f"{label}:{index}" if index else label
            maker = self.by_tensor.get(id(tensor))
            if maker is not None:
                self._another_name(name, maker, rename=not leaf and index == 0)
                continue
            known = self.sources.get(id(tensor))
            handed_on = not leaf or any(tensor is given for given in call.inputs)
            if known is not None and (handed_on or len(known) == 1):
                if label and len(known) == 1:
                    self.aliases[name] = known[0]
                continue
            if not keras.backend.is_float_dtype(dtype_of(tensor)):
                self.sources[id(tensor)] = self._origin(call, True) or ()
                continue
            origin = self._origin(call, True) if leaf else self._inside(call)
            kind, operation = type(call.operation).__name__, call.operation
            place = ("call", call.path, call.count)
            entry = _Entry(
                name or "output",
                kind,
                self._role(call),
                tensor,
                place,
                index,
                origin or (),
                call.inputs,
            )
            entry.stated = axes.stated_by_layer(operation, tensor.ndim) if leaf else None
            if isinstance(operation, keras.layers.Permute):
                entry.order = (0, *operation.dims)
            entry.decoded = isinstance(operation, keras.layers.Reshape)
            self._add(entry)

    def _inside(self, call: Call) -> tuple[int, ...]:
        """Return the entries that a result made out of sight inside a call comes from."""
        first = self.first_of.get(id(call), 0)
        since = tuple(sorted(entry for entry in self.unread if entry >= first))
        return since or self._origin(call, True) or ()

    def _another_name(self, name: str, maker: int, rename: bool) -> None:
        entry = self.entries[maker]
        if not name or entry.label == name:
            return
        if rename and entry.by_function:
            if entry.label:
                self.aliases[entry.label] = maker
            entry.label = name
        else:
            self.aliases[name] = maker

    def _role(self, call: Call) -> Role:
        role = roles.of_class(call.operation)
        if role is not None:
            operands = sum(id(tensor) in self.sources for tensor in call.inputs)
            return roles.of_product(role, type(call.operation).__name__, operands)
        if id(call) not in self.leaves:
            return "other"
        inside = self.timeline[call.start : call.end]
        return roles.of_functions(item.name for item in inside if isinstance(item, Computed))

    def _add(self, entry: _Entry) -> None:
        self.unread.difference_update(entry.inputs)
        number = len(self.entries)
        self.entries.append(entry)
        self.unread.add(number)
        self.by_tensor[id(entry.tensor)] = number
        self.sources[id(entry.tensor)] = (number,)

    def _name(self) -> None:
        """Name the functions that are no user's block's result by what they are."""
        for entry in self.entries:
            if not entry.label:
                scope = f"{entry.scope}/" if entry.scope else ""
                place = f":{entry.index}" if entry.index else ""
                entry.label = unique(f"{scope}{entry.kind}{place}", self.counts)

    def _follow_axes(self) -> dict[int, int]:
        """Hand channel axes on from where they are stated; return those of the inputs."""
        known: dict[int, int] = {}
        given = {id(tensor) for tensor in self.given.values()}
        for entry in self.entries:
            if entry.role != "conv" or entry.stated is None or not entry.reads:
                continue
            axis, tensor = entry.stated, entry.reads[0]
            while id(tensor) not in given:
                before = self.sources.get(id(tensor), ())
                maker = self.by_tensor.get(id(tensor), before[0] if len(before) == 1 else None)
                above = self.entries[maker] if maker is not None else None
                if above is None or not above.reads or above.reads[0].ndim != tensor.ndim:
                    break
                axis, tensor = (above.order[axis] if above.order else axis), above.reads[0]
            else:
                known.setdefault(id(tensor), axis)
        inputs = dict(known)
        for entry in self.entries:
            entry.axis = entry.stated
            if entry.axis is None and entry.tensor.ndim >= 3:
                entry.axis = self._handed(entry, known)
            if entry.axis is not None:
                known[id(entry.tensor)] = entry.axis
        return inputs

    def _handed(self, entry: _Entry, known: dict[int, int]) -> int | None:
        sources: list[tuple[int, tuple[int | None, ...]]] = []
        for tensor in (*entry.reads, *(self.entries[source].tensor for source in entry.inputs)):
            axis = known.get(id(tensor))
            if axis is not None:
                sources.append((axis, self._shape(tensor)))
        if entry.order is not None:
            return entry.order.index(sources[0][0]) if sources else None
        vector = bool(entry.reads) and entry.reads[0].ndim == 2
        return axes.inherited(sources, self._shape(entry.tensor), entry.decoded and vector)

    def _activation(self, tensor: Any) -> tuple[Place | None, Literal["softmax", "sigmoid"] | None]:
        """Return where an output's softmax or sigmoid ran, stepping over reshapes and casts."""
        made = {
            id(result): item
            for item in self.timeline
            if isinstance(item, Computed)
            for result in item.outputs
            if all(result is not given for given in item.inputs)
        }
        item = made.get(id(tensor))
        while item is not None and item.name in _RESHAPES and item.inputs:
            item = made.get(id(item.inputs[0]))
        if item is None or item.name not in _ACTIVATIONS or not item.inputs:
            return None, None
        return item.place, _ACTIVATIONS[item.name]
