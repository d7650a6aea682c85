"""One run of a traced model, held until its context ends."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from gradcam_multi.errors import (
    InputError,
    LayerNotOnPathError,
    TargetError,
    UnknownLayerError,
    UnsupportedError,
    suggest,
)
from gradcam_multi.spec import Array
from gradcam_multi_tensorflow.graph import Backward, Graph, Plan
from gradcam_multi_tensorflow.inputs import describe
from gradcam_multi_tensorflow.listing import Node

_HALF_SCALE = 256.0
"""Cotangents are multiplied by it on their way through float16, whose smallest normal number is
6e-5; results are divided by it."""


class KerasTrace:
    """Outputs, logits and activations of one run; see `gradcam_multi.spec.Trace`."""

    def __init__(self, graph: Graph, plan: Plan, inputs: Mapping[str, tf.Tensor]) -> None:
        self._graph, self._plan, self._names = graph, plan, list(graph.outputs)
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
            _to_core(tensor, node) for tensor, node in zip(kept, plan.nodes, strict=True)
        )
        self._residuals = results[2 * count + layers :]

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply cotangents of the logits back to the layers; see `gradcam_multi.spec.Trace`.

        Raises LayerNotOnPathError, UnsupportedError for an operation without a gradient, and
        TargetError for an output that there is not or a cotangent of another shape.
        """
        self._check_open()
        totals: list[Array | None] = [None] * len(self._plan.nodes)
        for name, value in cotangents.items():
            cotangent = self._checked(name, value)
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
        gradients = []
        for node, total in zip(self._plan.nodes, totals, strict=True):
            if total is None:
                raise LayerNotOnPathError(
                    f"layer {node.layer.name!r} ran, but no gradient leads to it from "
                    f"{', '.join(map(repr, cotangents)) or 'no output'}; choose a layer that the "
                    "output is computed from"
                )
            gradients.append(total)
        return tuple(gradients)

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Run forward from the layer on; see `gradcam_multi.spec.Trace`.

        Any batch size goes where the logits depend on the inputs through the layer alone.
        Raises UnknownLayerError for a layer that was not traced, InputError for another shape.
        """
        inputs = self._check_open()
        node = self._node(layer)
        expected = tuple(self.activations[self._plan.nodes.index(node)].shape[1:])
        value = np.asarray(activation, dtype=np.float32)
        if value.shape[1:] != expected:
            raise InputError(
                f"an activation of shape {value.shape} was given for layer {layer!r}; it takes "
                f"{('N', *expected)}, batch and channels first"
            )
        replay = self._graph.replay(node)
        if replay.side is not None and node.layer.name not in self._sides:
            self._sides[node.layer.name] = replay.side(*inputs)
        sides = self._sides.get(node.layer.name, [])
        try:
            return self._named(replay.run(_from_core(value, node), *sides))
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
        for scale in (_HALF_SCALE, 1.0) if half else (1.0,):
            # The scale is a power of two: it changes no digit where nothing under- or overflows.
            results = run(tf.cast(cotangent * np.float32(scale), dtype), *residuals)
            gradients = [_to_core(g, node) for g, node in zip(results, nodes, strict=True)]
            if all(np.isfinite(gradient).all() for gradient in gradients):
                break
        return [gradient / np.float32(scale) for gradient in gradients] if half else gradients

    def _checked(self, name: str, value: Array) -> Array:
        if name not in self._names:
            raise TargetError(
                f"the model has no output {name!r}; it has "
                f"{', '.join(map(repr, self._names))}{suggest(name, self._names)}"
            )
        cotangent = np.asarray(value, dtype=np.float32)
        if cotangent.shape != self.logits[name].shape:
            raise TargetError(
                f"a cotangent of shape {cotangent.shape} was given for output {name!r}; its logits "
                f"have {self.logits[name].shape}: give an array of this shape"
            )
        return cotangent

    def _node(self, layer: str) -> Node:
        node = self._graph.listing.find(layer)
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
        return {name: _float32(tensor) for name, tensor in zip(self._names, tensors, strict=True)}


def _float32(tensor: tf.Tensor) -> Array:
    array: Array = np.asarray(tensor.numpy(), dtype=np.float32)
    return array


def _to_core(tensor: tf.Tensor, node: Node) -> Array:
    array = _float32(tensor)
    axis = node.layer.channel_axis
    return array if axis is None else np.ascontiguousarray(np.moveaxis(array, axis, 1))


def _from_core(array: Array, node: Node) -> tf.Tensor:
    axis = node.layer.channel_axis
    if axis is not None:
        array = np.moveaxis(array, 1, axis)
    return tf.cast(tf.convert_to_tensor(np.ascontiguousarray(array)), node.tensor.dtype)
