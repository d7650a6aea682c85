"""A model traced once for one input signature, and the functions cut from the trace."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import tensorflow as tf

from gradcam_multi.spec import Layer, TensorSpec
from gradcam_multi_tensorflow import axes
from gradcam_multi_tensorflow.calls import Call
from gradcam_multi_tensorflow.cut import Function, beside, cut
from gradcam_multi_tensorflow.guided import guided, hidden_relu, relus
from gradcam_multi_tensorflow.listing import Listing, Node, list_layers
from gradcam_multi_tensorflow.logits import before_activation

_PLANS = 32  # kept per graph; a plan is two small functions, and most callers have one


@dataclass(frozen=True)
class Backward:
    """The gradient of one output with respect to a plan's layers.

    `run` takes a cotangent and the residuals at `slots`, and returns the gradients of the layers
    at `reached`. It is None where `refusal` says why there is no gradient.
    """

    run: Function | None
    slots: tuple[int, ...] = ()
    reached: tuple[int, ...] = ()
    refusal: str | None = None


@dataclass(frozen=True)
class Plan:
    """Functions for one choice of layers.

    `forward` takes the inputs and returns outputs, logits, activations and residuals, in turn.
    """

    nodes: tuple[Node, ...]
    forward: Function
    backward: dict[str, Backward]


@dataclass(frozen=True)
class Replay:
    """Forward from a layer on: `side` takes the inputs, `run` the activation and side's results."""

    side: Function | None
    run: Function


class Graph:
    """One trace of a model; `name_of` names operations where no Keras call made them."""

    def __init__(
        self,
        function: Any,
        calls: list[Call],
        inputs: dict[str, tf.Tensor],
        outputs: dict[str, tf.Tensor],
        name_of: Callable[[tf.Operation], str] | None = None,
    ) -> None:
        self.graph = function.graph
        count = len(self.graph.inputs) - len(function.captured_inputs)
        self.captures = list(zip(function.captured_inputs, self.graph.inputs[count:], strict=True))
        self.inputs, self.outputs = inputs, outputs
        operations = self.graph.get_operations()
        self.relus = relus(operations, calls)
        self.input_nodes = {
            name: Node(Layer(name, "Input", "other", tuple(tensor.shape.as_list())), tensor)
            for name, tensor in inputs.items()
        }
        self.logits: dict[str, tf.Tensor] = {}
        self.output_specs: tuple[TensorSpec, ...] = ()
        for name, tensor in outputs.items():
            logits, activation = before_activation(tensor)
            self.logits[name] = logits
            shape = tuple(tensor.shape.as_list()) if tensor.shape.rank is not None else ()
            spec = TensorSpec(name, shape, tensor.dtype.name, activation=activation)
            self.output_specs += (spec,)
        self.listing: Listing = list_layers(
            operations, calls, list(inputs.values()), outputs, name_of
        )
        self.calls = calls
        self.unlisted: dict[str, Node] = {}  # what `biases_of` adds: tensors inside of layers
        self.blocks: dict[Any, Any] = {}  # what `block_plan` makes
        self._plans: OrderedDict[Any, Plan] = OrderedDict()
        self._replays: OrderedDict[str, Replay] = OrderedDict()
        self.lock = threading.RLock()

    @cached_property
    def input_specs(self) -> tuple[TensorSpec, ...]:
        """What the trace takes, with the layout in which its first convolution reads it."""
        specs = []
        for name, tensor in self.inputs.items():
            shape = tuple(tensor.shape.as_list())
            layout = axes.layout_of(self.listing.input_axes.get(tensor.name), len(shape))
            specs.append(TensorSpec(name, shape, tensor.dtype.name, layout))
        return tuple(specs)

    @cached_property
    def hidden_relu(self) -> str | None:
        """The name of an operation that hides a ReLU from the guided rule."""
        return hidden_relu(self.graph)

    def plan(self, nodes: Sequence[Node], guide: bool = False) -> Plan:
        """Return the functions for these layers, made once; `guide` has ReLU's guided rule."""
        key = (guide, *(node.tensor.name for node in nodes))
        with self.lock:
            if key not in self._plans:
                with guided(self.relus if guide else ()):
                    self._plans[key] = self._make_plan(tuple(nodes))
                if len(self._plans) > _PLANS:
                    self._plans.popitem(last=False)
            self._plans.move_to_end(key)
            return self._plans[key]

    def replay(self, node: Node) -> Replay:
        """Return the functions that run forward from this layer, made once."""
        name = node.tensor.name
        with self.lock:
            if name not in self._replays:
                self._replays[name] = self._make_replay(node)
                if len(self._replays) > _PLANS:
                    self._replays.popitem(last=False)
            self._replays.move_to_end(name)
            return self._replays[name]

    def _make_plan(self, nodes: tuple[Node, ...]) -> Plan:
        feeds = list(self.inputs.values())
        residuals: dict[str, tf.Tensor] = {}
        backward = {
            name: self._make_backward(name, logits, nodes, residuals)
            for name, logits in self.logits.items()
        }
        fetches = [*self.outputs.values(), *self.logits.values()]
        fetches += [node.tensor for node in nodes]
        forward = cut(self.graph, self.captures, feeds, [*fetches, *residuals.values()])
        return Plan(nodes, forward, backward)

    def _make_backward(
        self,
        name: str,
        logits: tf.Tensor,
        nodes: tuple[Node, ...],
        residuals: dict[str, tf.Tensor],
    ) -> Backward:
        if not logits.dtype.is_floating:
            refusal = f"output {name!r} holds {logits.dtype.name}, which no gradient leads to"
            return Backward(None, refusal=f"{refusal}; explain an output of floating point")
        with self.graph.as_default():
            cotangent = tf.compat.v1.placeholder(logits.dtype, logits.shape)
            try:
                found = tf.gradients(
                    [logits], [node.tensor for node in nodes], [cotangent], name="gradcam_multi"
                )
            except (LookupError, NotImplementedError) as error:
                return Backward(None, refusal=_no_gradient(name, error))
            found = [None if grad is None else tf.convert_to_tensor(grad) for grad in found]
        reached = tuple(place for place, grad in enumerate(found) if grad is not None)
        gradients = [grad for grad in found if grad is not None]
        if not gradients:
            return Backward(None)
        # What the gradient needs of the forward run is handed over; what it needs of weights
        # and constants alone is read again, so that no copy of a weight is held.
        needed = beside(gradients, [cotangent], self.inputs.values())
        for key, tensor in needed.items():
            residuals.setdefault(key, tensor)
        order = list(residuals)
        slots = tuple(order.index(key) for key in needed)
        run = cut(self.graph, self.captures, [cotangent, *needed.values()], gradients)
        return Backward(run, slots, reached)

    def _make_replay(self, node: Node) -> Replay:
        feeds, logits = list(self.inputs.values()), list(self.logits.values())
        side = beside(logits, [node.tensor], feeds)
        from_inputs = cut(self.graph, self.captures, feeds, list(side.values())) if side else None
        run = cut(self.graph, self.captures, [node.tensor, *side.values()], logits)
        return Replay(from_inputs, run)


def _no_gradient(output: str, error: Exception) -> str:
    cause = " ".join(str(error).split())
    return (
        f"output {output!r} cannot be differentiated: {cause[:200]}; name a layer after that "
        "operation, or explain another output"
    )
