"""A model without its weights: what is read, sorted and typed while the weights stay on disk."""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

SMALL = 4096
"""Elements of a constant that stays: shapes, axes and per-channel vectors, not weights."""


def lift_constants(model: onnx.ModelProto) -> None:
    """Turn Constant nodes that hold tensors into initialisers."""
    # One kind of constant is simpler than two: `Constant` nodes of tensors become initialisers.
    kept = []
    for node in model.graph.node:
        value = node.attribute[0] if node.op_type == "Constant" and node.attribute else None
        if value is not None and value.name == "value":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(model.graph.node):
        copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
        del model.graph.node[:]
        model.graph.node.extend(copies)


def strip_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace large initialisers by inputs of their type; return the rest as a new model."""
    graph, listed = model.graph, {v.name for v in model.graph.input}
    small = []
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and np.prod(tensor.dims) <= SMALL:
            small.append(TensorProto.FromString(tensor.SerializeToString()))
        elif tensor.name not in listed:  # shape inference then sees its type without its data
            value = onnx.helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)
            )
            graph.input.append(value)
    del graph.initializer[:]
    graph.initializer.extend(small)
    # Protobuf frees what was deleted only with the whole message: the rest must leave it.
    return onnx.ModelProto.FromString(model.SerializeToString())
