"""From recorded calls and a traced graph to the list of a model's operations.

Listed are Keras' own layers, and whatever TensorFlow operations a model or a user's layer runs
between them. A tensor is listed once, under the name of what made it; other names that stand for
it (a block, a model inside the model, a dropout that hands its input on) are aliases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import tensorflow as tf

from gradcam_multi.spec import Layer, Role
from gradcam_multi_tensorflow import axes, roles
from gradcam_multi_tensorflow.calls import Call, labels, leaves, outer_leaf, unique


@dataclass(frozen=True)
class Node:
    """A listed layer and its tensor in the traced graph."""

    layer: Layer
    tensor: tf.Tensor


@dataclass
class Listing:
    """The nodes by name in execution order, and further names for them."""

    nodes: dict[str, Node] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    input_axes: dict[str, int] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every listed layer in execution order."""
        return tuple(node.layer for node in self.nodes.values())

    def find(self, name: str) -> Node | None:
        """Return the node of this name or alias."""
        return self.nodes.get(self.aliases.get(name, name))


def list_layers(
    operations: Iterable[tf.Operation],
    calls: list[Call],
    inputs: list[tf.Tensor],
    outputs: Mapping[str, tf.Tensor],
    name_of: Callable[[tf.Operation], str] | None = None,
) -> Listing:
    """List what a trace ran, from its graph operations, its Keras calls and its end points.

    `name_of` names an operation outside of any call; left out, it is named by its type.
    """
    builder = _Builder(list(operations), calls, inputs, name_of or (lambda op: op.type))
    listing = builder.run()
    for output, tensor in outputs.items():
        makers = builder.sources(tensor)
        if len(makers) == 1 and (node := listing.nodes.get(makers[0])):
            if node.layer.output is None:
                layer = replace(node.layer, output=output)
                listing.nodes[makers[0]] = Node(layer, node.tensor)
    return listing


class _Builder:
    def __init__(
        self,
        operations: list[tf.Operation],
        calls: list[Call],
        inputs: list[tf.Tensor],
        name_of: Callable[[tf.Operation], str],
    ) -> None:
        self.operations, self.inputs, self.name_of = operations, inputs, name_of
        self.listing = Listing()
        self.by_tensor: dict[str, str] = {}  # tensor -> listed name
        self.made_from: dict[str, tuple[str, ...]] = {}  # tensor -> listed names it comes from
        self.leaves = leaves(calls)
        self.calls = [call for call in calls if outer_leaf(call.parent, self.leaves) is None]
        self.counts: Counter[str] = Counter()
        self.labels = labels(self.calls, self.counts)
        self.owner = self._own()
        self.dependent = {tensor.op.name for tensor in inputs}
        self.data = set(self.dependent)  # the same without what depends on shapes only
        self.axis = self._input_axes()
        self.stated = {
            tensor.name: axis
            for call in self.calls
            if id(call) in self.leaves
            for tensor in call.outputs
            if (axis := axes.stated_by_layer(call.operation, tensor.shape.rank or 0)) is not None
        }

    def _own(self) -> list[Call | None]:
        # Calls come in order of their start, so that an inner call overwrites its outer one.
        owner: list[Call | None] = [None] * len(self.operations)
        for call in self.calls:
            owner[call.start : call.end] = [call] * (call.end - call.start)
        return owner

    def _input_axes(self) -> dict[str, int]:
        """Find the channel axis of each input by the first convolution that reads it."""
        ends: list[tuple[tf.Tensor, int]] = []
        for call in self.calls:
            if id(call) in self.leaves and call.inputs and roles.of_class(call.operation) == "conv":
                first = call.inputs[0]
                axis = axes.stated_by_layer(call.operation, first.shape.rank or 0)
                ends += [(first, axis)] if axis is not None else []
        for op, owner in zip(self.operations, self.owner, strict=True):
            if roles.of_types([op.type]) == "conv" and id(owner) not in self.leaves:
                axis = axes.stated_by_op(op, op.inputs[0].shape.rank or 0)
                ends += [(op.inputs[0], axis)] if axis is not None else []
        known = {tensor.name for tensor in self.inputs}
        for tensor, axis in ends:
            found = axes.towards_input(tensor, axis)
            if found is not None and found[0] in known:
                self.listing.input_axes.setdefault(*found)
        return dict(self.listing.input_axes)

    def run(self) -> Listing:
        finished: dict[int, list[Call]] = {}
        for call in sorted(self.calls, key=lambda call: call.finish):
            finished.setdefault(call.end, []).append(call)
        named = {
            call.outputs[0].name: self.labels[id(call)]
            for call in reversed(self.calls)
            if id(call) not in self.leaves and call.outputs and call.path
        }
        for place, op in enumerate(self.operations):
            for call in finished.get(place, ()):
                self._close(call)
            self._step(op, self.owner[place], named)
        for call in finished.get(len(self.operations), ()):
            self._close(call)
        return self.listing

    def _step(self, op: tf.Operation, call: Call | None, named: dict[str, str]) -> None:
        if any(source.op.name in self.dependent for source in op.inputs):
            self.dependent.add(op.name)
        measures = op.type in roles.MEASURES
        operands = 0 if measures else sum(source.op.name in self.data for source in op.inputs)
        self.data.update([op.name] if operands else [])
        for result in op.outputs:
            axis = self.stated.get(result.name)
            if axis is None:
                axis = axes.stated_by_op(op, result.shape.rank or 0)
            if axis is None:
                axis = axes.handed_on(op, result, self.axis)
            if axis is not None:
                self.axis[result.name] = axis
        origin = _union(self.sources(source) for source in (() if measures else op.inputs))
        for result in op.outputs:
            self.made_from[result.name] = origin
        inside_leaf = call is not None and id(call) in self.leaves
        if inside_leaf or op.name not in self.dependent or op.type in roles.TRANSPARENT:
            return
        if roles.is_lifting(op):
            return
        kind = (roles.lifted(op) or op).type
        role = roles.of_product(roles.of_types([kind]), kind, operands)
        for place, result in enumerate(op.outputs):
            if result.dtype.is_floating and result.shape.rank is not None:
                scope = f"{self.labels[id(call)]}/" if call is not None and call.path else ""
                label = named.get(result.name) or unique(
                    f"{scope}{self.name_of(op)}" + (f":{place}" if place else ""), self.counts
                )
                self._add(label, kind, role, result, origin)

    def _close(self, call: Call) -> None:
        """List a leaf's results, unless they are listed already; give a composite its alias."""
        label = self.labels[id(call)]
        if not label:
            return
        for place, tensor in enumerate(call.outputs):
            name = f"{label}:{place}" if place else label
            maker = self.by_tensor.get(tensor.name)
            if maker is not None:
                if maker != name:
                    self.listing.aliases[name] = maker
            elif id(call) in self.leaves and tensor.op.name in self.dependent:
                kind = type(call.operation).__name__
                self._keep_axis(call, tensor)
                self._add(name, kind, self._role(call), tensor, self.sources(tensor))
            elif len(makers := self.sources(tensor)) == 1:
                self.listing.aliases[name] = makers[0]

    def _keep_axis(self, call: Call, tensor: tf.Tensor) -> None:
        """Give a layer's result its input's channel axis where its inside has lost that."""
        for source in call.inputs:
            axis = self.axis.get(source.name)
            if axis is not None and source.shape.rank == tensor.shape.rank:
                self.axis.setdefault(tensor.name, axis)

    def _role(self, call: Call) -> Role:
        role = roles.of_class(call.operation)
        if role is not None:
            operands = sum(tensor.op.name in self.data for tensor in call.inputs)
            return roles.of_product(role, type(call.operation).__name__, operands)
        inside = [op for op in self.operations[call.start : call.end]]
        return roles.of_types(op.type for op in inside if op.name in self.dependent)

    def _add(
        self, name: str, kind: str, role: Role, tensor: tf.Tensor, inputs: tuple[str, ...]
    ) -> None:
        shape = None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
        layer = Layer(name, kind, role, shape, self.axis.get(tensor.name), inputs)
        self.listing.nodes[name] = Node(layer, tensor)
        self.by_tensor[tensor.name] = name
        self.made_from[tensor.name] = (name,)

    def sources(self, tensor: tf.Tensor) -> tuple[str, ...]:
        return self.made_from.get(tensor.name, ())


def _union(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))
