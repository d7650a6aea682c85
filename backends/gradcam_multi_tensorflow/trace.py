"""One run of a traced model, held until its context ends."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from gradcam_multi.backward import check_outputs, find_input
from gradcam_multi.errors import InputError, UnknownLayerError, UnsupportedError, suggest
from gradcam_multi.spec import Array
from gradcam_multi_tensorflow import checks
from gradcam_multi_tensorflow.axes import channels_first
from gradcam_multi_tensorflow.graph import Backward, Graph, Plan
from gradcam_multi_tensorflow.inputs import describe
from gradcam_multi_tensorflow.listing import Node


class KerasTrace:
    """Outputs, logits and activations of one run; see `gradcam_multi.spec.Trace`."""

    def __init__(
        self, graph: Graph, plan: Plan, inputs: Mapping[str, tf.Tensor], guided: bool = False
    ) -> None:
        self._graph, self._plan, self._names = graph, plan, list(graph.outputs)
        self._guided = guided
        self._inputs: list[tf.Tensor] | None = list(inputs.values())
        self._sides: dict[str, list[tf.Tensor]] = {}
        try:
            results = plan.forward(*self._inputs)
        except tf.errors.InvalidArgumentError as error:
            cause = " ".join(error.message.split())[:160]
            raise InputError(f"the model does not run on {describe(inputs)}: {cause}") from error
        count, layers = len(self._names), len(plan.nodes)
        self.outputs: Mapping[str, Array] = self._named(results[:count])
        self.logits: Mapping[str, Array] = self._named(results[count : 2 * count])
        kept = results[2 * count : 2 * count + layers]
        self.activations: tuple[Array, ...] = tuple(
            to_core(tensor, node) for tensor, node in zip(kept, plan.nodes, strict=True)
        )
        self._residuals = results[2 * count + layers :]

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply cotangents of the logits back to the layers; see `gradcam_multi.spec.Trace`.

        Raises LayerNotOnPathError, UnsupportedError for an operation without a gradient, and
        TargetError for an output that there is not or a cotangent of another shape.
        """
        self._check_open()
        check_outputs(self._guided, cotangents)
        totals: list[Array | None] = [None] * len(self._plan.nodes)
        for name, value in cotangents.items():
            cotangent = checks.cotangent_for(name, value, self.logits)
            backward = self._plan.backward[name]
            if backward.refusal is not None:
                raise UnsupportedError(backward.refusal)
            if backward.run is None:
                continue
            for place, gradient in zip(
                backward.reached, self._pull(backward, name, cotangent), strict=True
            ):
                total = totals[place]
                totals[place] = gradient if total is None else total + gradient
        names = [node.layer.name for node in self._plan.nodes]
        return checks.all_reached(names, totals, cotangents)

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Run forward from the layer on; see `gradcam_multi.spec.Trace`.

        Any batch size goes where the logits depend on the inputs through the layer alone.
        Raises UnknownLayerError for a layer that was not traced, InputError for another shape.
        """
        inputs = self._check_open()
        node = self._node(layer)
        traced = self.activations[self._plan.nodes.index(node)]
        value = checks.activation_for(layer, activation, traced)
        replay = self._graph.replay(node)
        if replay.side is not None and node.layer.name not in self._sides:
            self._sides[node.layer.name] = replay.side(*inputs)
        sides = self._sides.get(node.layer.name, [])
        try:
            return self._named(replay.run(from_core(value, node), *sides))
        except tf.errors.InvalidArgumentError as error:
            raise InputError(
                f"layer {layer!r} was replayed with a batch of {len(value)}; other parts of the "
                f"network keep their batch of {inputs[0].shape[0]}: give as many items"
            ) from error

    def close(self) -> None:
        """Free what the run kept."""
        self._inputs = None
        self._residuals, self._sides = [], {}

    def _pull(self, backward: Backward, name: str, cotangent: Array) -> list[Array]:
        nodes = [self._plan.nodes[place] for place in backward.reached]
        dtype = self._graph.logits[name].dtype
        half = dtype == tf.float16 or any(node.tensor.dtype == tf.float16 for node in nodes)
        residuals = [self._residuals[slot] for slot in backward.slots]
        run = backward.run
        assert run is not None  # the caller has looked

        def pull(scale: np.float32) -> list[Array]:
            results = run(tf.cast(cotangent * scale, dtype), *residuals)
            return [to_core(g, node) for g, node in zip(results, nodes, strict=True)]

        return [gradient for gradient in checks.scaled(pull, half) if gradient is not None]

    def _node(self, layer: str) -> Node:
        found = self._graph.listing.find(layer)
        own = find_input(layer, list(self._graph.inputs), () if found is None else (layer,))
        node = found if own is None else self._graph.input_nodes[own]
        if node is None or node not in self._plan.nodes:
            known = [node.layer.name for node in self._plan.nodes]
            raise UnknownLayerError(
                f"layer {layer!r} was not traced; traced: {', '.join(map(repr, known)) or 'none'}"
                f"{suggest(layer, known)}"
            )
        return node

    def _check_open(self) -> list[tf.Tensor]:
        if self._inputs is None:
            raise RuntimeError("the trace has ended; use it inside its with block")
        return self._inputs

    def _named(self, tensors: list[tf.Tensor]) -> dict[str, Array]:
        return {name: float32(tensor) for name, tensor in zip(self._names, tensors, strict=True)}


def float32(tensor: tf.Tensor) -> Array:
    """Return a tensor's values, float32."""
    array: Array = np.asarray(tensor.numpy(), dtype=np.float32)
    return array


def to_core(tensor: tf.Tensor, node: Node) -> Array:
    """Return a layer's result, or its gradient, as (N, C, *grid)."""
    return channels_first(float32(tensor), node.layer.channel_axis)


def from_core(array: Array, node: Node) -> tf.Tensor:
    """Return (N, C, *grid) as the model lays it out."""
    axis = node.layer.channel_axis
    if axis is not None:
        array = np.moveaxis(array, 1, axis)
    return tf.cast(tf.convert_to_tensor(np.ascontiguousarray(array)), node.tensor.dtype)
