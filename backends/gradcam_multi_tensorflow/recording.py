"""What a watched run of a Keras model on torch or JAX did, noted down and listed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import keras

from gradcam_multi.spec import Layer, TensorSpec
from gradcam_multi_tensorflow.calls import Call
from gradcam_multi_tensorflow.watch import Place, Watch


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
    """An output; `place` is that of the activation behind which its logits lie."""

    spec: TensorSpec
    place: Place | None = None


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

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every listed layer in execution order."""
        return tuple(node.layer for node in self.nodes.values())

    def find(self, name: str) -> Node | None:
        """Return the node of this name or alias."""
        return self.nodes.get(self.aliases.get(name, name))


def tensors(structure: Any) -> tuple[Any, ...]:
    """Return the tensors of a structure."""
    flat = keras.tree.flatten(structure)
    return tuple(leaf for leaf in flat if keras.ops.is_tensor(leaf) and hasattr(leaf, "ndim"))


def _argument(function: Callable[..., Any], args: Any, kwargs: Any, name: str) -> Any:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments.get(name)


def reaches(layers: Iterable[Layer], name: str, output: str) -> bool:
    """Whether an output depends on a layer."""
    below = {name}
    for layer in layers:
        if not below.isdisjoint(layer.inputs):
            below.add(layer.name)
    return any(layer.output == output and layer.name in below for layer in layers)
