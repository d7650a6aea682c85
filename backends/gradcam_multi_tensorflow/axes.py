"""Where the channels of a tensor are, followed through a traced graph.

An axis is known where an operation states a data format. From there it is handed on to results
of the same rank, through transpositions, and through reshapes that leave the channels as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from gradcam_multi.spec import Array, Layout

if TYPE_CHECKING:
    import tensorflow as tf

Shape = tuple[int | None, ...]

_FORMATTED = frozenset(
    "Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput Conv3DBackpropInputV2 BiasAdd MaxPool "
    "MaxPool3D AvgPool AvgPool3D FusedBatchNormV3 SpaceToDepth DepthToSpace".split()
)

_PRODUCTS = ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")

_LAST = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.MultiHeadAttention)
"""Layers that mix the last axis whatever the data format is."""


def stated_by_layer(operation: Any, rank: int) -> int | None:
    """Return the channel axis that a Keras layer states for its result, or None."""
    cell = getattr(operation, "cell", None)
    holder: Any = operation if hasattr(operation, "data_format") else cell
    if rank < 3:
        return None
    if isinstance(operation, _LAST):
        return rank - 1
    if not hasattr(holder, "data_format"):
        return None
    if (holder.data_format or keras.config.image_data_format()) == "channels_last":
        return rank - 1
    # A convolutional LSTM that returns its steps has them before the channels.
    return 2 if cell is not None and getattr(operation, "return_sequences", False) else 1


def stated_by_op(op: tf.Operation, rank: int) -> int | None:
    """Return the channel axis that a TensorFlow operation states, or None."""
    if op.type not in _FORMATTED or rank < 3:
        return None
    return 1 if op.get_attr("data_format").startswith(b"NC") else rank - 1


def handed_on(op: tf.Operation, result: tf.Tensor, known: dict[str, int]) -> int | None:
    """Return the channel axis that a result has from what the operation read, or None."""
    rank = result.shape.rank
    if rank is None or rank < 3:
        return None
    if op.type == "Transpose":
        axis, order = known.get(op.inputs[0].name), _order(op)
        return order.index(axis) if axis is not None and order is not None else None
    if op.type in _PRODUCTS and rank == op.inputs[1].shape.rank and op.inputs[1].name in known:
        # Values have their channels last, and so has what they are summed to; but keys, turned
        # around, give weights, which have none.
        values = known[op.inputs[1].name] == rank - 1 and not op.get_attr("adj_y")
        return rank - 1 if values else None
    sources = [
        (axis, tuple(source.shape))
        for source in op.inputs
        if (axis := known.get(source.name)) is not None
    ]
    decoded = op.type == "Reshape" and op.inputs[0].shape.rank == 2
    return inherited(sources, tuple(result.shape), decoded)


def inherited(
    sources: Iterable[tuple[int, Shape]], shape: Shape, decoded: bool = False
) -> int | None:
    """Return the channel axis that a result of `shape` has from its sources' axes, or None.

    `decoded` says that a vector was reshaped, which a decoder's first grid is made by.
    """
    rank = len(shape)
    for axis, before in sources:
        if len(before) == rank:
            return axis
        for place, there in ((len(before) - 1, rank - 1), (1, 1)):
            if axis == place and before[place] == shape[there] is not None:
                return there
    if decoded:
        return rank - 1 if keras.config.image_data_format() == "channels_last" else 1
    return None


def towards_input(tensor: tf.Tensor, axis: int) -> tuple[str, int] | None:
    """Follow a channel axis back to an input; return the placeholder's name and its axis there.

    None where the way back changes the rank, so that the axis is lost.
    """
    while tensor.op.type != "Placeholder":
        op = tensor.op
        if not op.inputs or op.inputs[0].shape.rank != tensor.shape.rank:
            return None
        if op.type == "Transpose":
            order = _order(op)
            if order is None:
                return None
            axis = order[axis]
        tensor = op.inputs[0]
    return tensor.name, axis


def layout_of(axis: int | None, rank: int | None) -> Layout | None:
    """Name the layout of an input with this channel axis; Keras' default where it is unknown."""
    if rank is None or rank < 3:
        return None
    if axis == rank - 1:
        return "channels_last"
    if axis == 1:
        return "channels_first"
    default: Layout = keras.config.image_data_format()
    return default


def _order(op: tf.Operation) -> list[int] | None:
    import tensorflow as tf  # absent where Keras runs on another backend

    order = tf.get_static_value(op.inputs[1])
    return None if order is None else [int(axis) for axis in order]


def channels_first(array: Array, axis: int | None) -> Array:
    """Return a view of an array as (N, C, *grid); None for an axis says that it has no channels.

    A copy in that order takes up to seven times as long as the maps that are made of it, and these
    take no longer of a view.
    """
    return array if axis is None else np.moveaxis(array, axis, 1)
