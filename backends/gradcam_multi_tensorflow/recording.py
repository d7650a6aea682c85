"""What a watched run of a Keras model on torch or JAX did, noted down and listed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from gradcam_multi.spec import Layer, TensorSpec
from gradcam_multi_tensorflow.calls import Call
from gradcam_multi_tensorflow.leaky import RELUS, leaks
from gradcam_multi_tensorflow.watch import INPUT, Place, Watch, input_place


@dataclass(eq=False)
class Computed:
    """One run of a function of Keras' backend."""

    name: str
    place: Place
    parent: Call | None
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    order: tuple[int, ...] | None  # of axes, where it permutes them
    axis: int | None  # of channels, where it states a data format


@dataclass
class Node:
    """A listed layer: its place in a run, and which of the results there is its own."""

    layer: Layer
    place: Place
    index: int
    dtype: str


@dataclass
class Output:
    """An output; `place` is that of the activation behind which its logits lie.

    `inputs` are those of the model's inputs that it depends on, as far as the run told.
    """

    spec: TensorSpec
    place: Place | None = None
    inputs: frozenset[str] = frozenset()


class Recorder(Watch):
    """Notes all calls and functions of a run, and holds their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.timeline: list[Call | Computed] = []  # in order of completion

    def entered(self, call: Call, args: Any, kwargs: Any) -> None:
        """Note that a call has begun."""
        call.start, call.inputs = len(self.timeline), tensors((args, kwargs))
        self.calls.append(call)

    def returned(self, call: Call, result: Any) -> Any:
        """Note what a call returned."""
        call.end = call.finish = len(self.timeline)
        call.outputs = tensors(result)
        self.timeline.append(call)
        return result

    def computed(
        self, place: Place, function: Callable[..., Any], args: Any, kwargs: Any, result: Any
    ) -> Any:
        """Note what a function computed."""
        given = tensors((args, kwargs))
        made = tensors(result)
        rank = made[0].ndim if made else 0
        order, axis = None, None
        if place[1] == "transpose" and rank:
            stated = _argument(function, args, kwargs, "axes")
            order = tuple(stated) if stated is not None else tuple(range(rank))[::-1]
        elif "data_format" in inspect.signature(function).parameters and rank >= 3:
            stated = _argument(function, args, kwargs, "data_format")
            first = (stated or keras.config.image_data_format()) == "channels_first"
            axis = 1 if first else rank - 1
        self.timeline.append(Computed(place[1], place, self.current, given, made, order, axis))
        return result


@dataclass
class Recording:
    """The layers of a run by name in execution order, further names, inputs and outputs."""

    nodes: dict[str, Node] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[Output, ...] = ()
    rectified: bool = False  # whether a ReLU ran that the guided rule acts on

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every listed layer in execution order."""
        return tuple(node.layer for node in self.nodes.values())

    def find(self, name: str) -> Node | None:
        """Return the node of this name or alias."""
        return self.nodes.get(self.aliases.get(name, name))

    def input_node(self, name: str) -> Node:
        """Return an input as a node that can be traced."""
        spec = next(spec for spec in self.inputs if spec.name == name)
        return Node(Layer(name, "Input", "other", spec.shape), input_place(name), 0, spec.dtype)

    def reaches(self, node: Node, outputs: Iterable[str]) -> bool:
        """Whether one of the outputs depends on a node."""
        if node.place[0] == INPUT:
            return any(node.layer.name in o.inputs for o in self.outputs if o.spec.name in outputs)
        return any(reaches(self.layers, node.layer.name, output) for output in outputs)


def tensors(structure: Any) -> tuple[Any, ...]:
    """Return the tensors of a structure."""
    flat = keras.tree.flatten(structure)
    return tuple(leaf for leaf in flat if keras.ops.is_tensor(leaf) and hasattr(leaf, "ndim"))


def _argument(function: Callable[..., Any], args: Any, kwargs: Any, name: str) -> Any:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments.get(name)


def origins(
    timeline: Iterable[Call | Computed], given: Mapping[str, Any]
) -> dict[int, frozenset[str]]:
    """Return the inputs of a model that each tensor of a run comes from, by the tensors' ids."""
    batch = next(iter(given.values())).shape[0]
    found = {id(tensor): frozenset([name]) for name, tensor in given.items()}
    for item in timeline:
        origin = frozenset(name for t in item.inputs for name in found.get(id(t), ()))
        # Weights have no batch; what has one and comes from nowhere was made out of sight.
        if any(t.ndim > 1 and t.shape[0] == batch for t in item.inputs if id(t) not in found):
            origin = frozenset(given)
        for tensor in item.outputs:
            found.setdefault(id(tensor), origin)
    return found


def rectified(timeline: Iterable[Call | Computed]) -> bool:
    """Whether a ReLU ran that the guided rule acts on."""
    return any(
        isinstance(item, Computed)
        and item.name in RELUS
        and not (item.parent and leaks(item.parent.operation))
        for item in timeline
    )


def reaches(layers: Iterable[Layer], name: str, output: str) -> bool:
    """Whether an output depends on a layer."""
    below = {name}
    for layer in layers:
        if not below.isdisjoint(layer.inputs):
            below.add(layer.name)
    return any(layer.output == output and layer.name in below for layer in layers)
