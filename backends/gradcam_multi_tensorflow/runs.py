"""One run of a Keras model with some results kept: what the torch and JAX engines share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import keras
import numpy as np

from gradcam_multi.spec import Array
from gradcam_multi_tensorflow.calls import Call
from gradcam_multi_tensorflow.inputs import Bound, Form
from gradcam_multi_tensorflow.leaky import RELUS, leaks
from gradcam_multi_tensorflow.recording import Node, Output, Recorder
from gradcam_multi_tensorflow.watch import Place, Watch, input_place, watching

Tap = Callable[[int, Any], Any]
"""Takes a traced layer's number and its result, and returns with what the model goes on."""

Guide = Callable[[Any], Any]
"""Takes what a ReLU made, and returns the same with the guided rule on its way back."""

Listed = Callable[[Recorder, dict[str, Any], Any], None]


class Run(Protocol):
    """What a run kept, as float32 arrays in the framework's own layout."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """What the model returned."""

    @property
    def logits(self) -> Mapping[str, Array]:
        """The same, before final activations."""

    @property
    def kept(self) -> Sequence[Array]:
        """The results of the traced layers."""

    def pull(self, cotangents: Mapping[str, Array]) -> list[Array | None]:
        """Multiply cotangents of logits back to what was kept; None where nothing leads there."""

    def close(self) -> None:
        """Free what the run kept."""


class Engine(Protocol):
    """How a model runs on one backend.

    `exact` says that a run itself tells where no gradient leads.
    """

    exact: bool

    @property
    def accelerated(self) -> bool:
        """Whether the model's weights are elsewhere than in the CPU's memory."""

    def outside(self) -> AbstractContextManager[Any]:
        """Step out of the modes in which the caller has the framework."""

    def record(self, bound: Bound, listed: Listed) -> None:
        """Run under a recorder, without gradients, and hand over what it noted."""

    def run(
        self, bound: Bound, outputs: Sequence[Output], nodes: Sequence[Node], guided: bool
    ) -> Run:
        """Run and keep the results of the nodes; `guided` has ReLU's guided rule."""

    def replay(
        self, bound: Bound, outputs: Sequence[Output], node: Node, value: Array
    ) -> Mapping[str, Array]:
        """Run with another result of the node, and return the logits."""


class Taps(Watch):
    """Hands the results of some layers to a tap, and notes what final activations read.

    What ReLU makes goes through `guide`, where that is given, before all else.
    """

    def __init__(
        self, outputs: Sequence[Output], nodes: Sequence[Node], tap: Tap, guide: Guide | None = None
    ) -> None:
        super().__init__()
        self._guide = guide
        self.logits: dict[Place, Any] = {each.place: None for each in outputs if each.place}
        self._nodes: dict[Place, list[tuple[int, int]]] = {}
        for number, node in enumerate(nodes):
            self._nodes.setdefault(node.place, []).append((number, node.index))
        self._tap = tap

    def returned(self, call: Call, result: Any) -> Any:
        """Hand the call's results on through the tap."""
        return self._tapped(("call", call.path, call.count), result)

    def computed(
        self, place: Place, function: Callable[..., Any], args: Any, kwargs: Any, result: Any
    ) -> Any:
        """Hand the function's results on through the tap; keep what an activation reads."""
        if place in self.logits:
            self.logits[place] = args[0] if args else kwargs["x"]
        call = self.current
        if self._guide and place[1] in RELUS and not (call and leaks(call.operation)):
            result = self._guide(result)
        return self._tapped(place, result)

    def given(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Hand the inputs that are traced through the tap."""
        return {name: self._tapped(input_place(name), tensor) for name, tensor in tensors.items()}

    def _tapped(self, place: Place, result: Any) -> Any:
        wanted = self._nodes.get(place)
        if not wanted:
            return result
        flat = keras.tree.flatten(result)
        positions = [at for at, leaf in enumerate(flat) if keras.ops.is_tensor(leaf)]
        for number, index in wanted:
            flat[positions[index]] = self._tap(number, flat[positions[index]])
        return keras.tree.pack_sequence_as(result, flat)


def tapped(
    model: Any,
    form: Form,
    tensors: Mapping[str, Any],
    outputs: Sequence[Output],
    nodes: Sequence[Node],
    tap: Tap,
    guide: Guide | None = None,
) -> tuple[list[Any], list[Any]]:
    """Run a model with a tap, and return its outputs and their logits."""
    taps = Taps(outputs, nodes, tap, guide)
    with watching(taps):
        result = form.call(model, taps.given(tensors))
    flat = [tensor for tensor in keras.tree.flatten(result) if keras.ops.is_tensor(tensor)]
    flat = [t for t in flat if keras.backend.standardize_dtype(t.dtype) != "bool"]
    logits = [
        flat[number] if each.place is None else taps.logits[each.place]
        for number, each in enumerate(outputs)
    ]
    return flat, logits


def named(outputs: Sequence[Output], tensors: Sequence[Any]) -> dict[str, Array]:
    """Return tensors as float32 arrays by the names of the outputs."""
    return {
        each.spec.name: to_float32(tensor) for each, tensor in zip(outputs, tensors, strict=True)
    }


def to_float32(tensor: Any) -> Array:
    """Return a tensor of any dtype as a float32 array of its own."""
    array: Array = np.array(keras.ops.convert_to_numpy(tensor), dtype=np.float32)
    return array
