"""A copy of an ONNX model with other weights."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper

from gradcam_multi.errors import ModelFileError
from gradcam_multi_onnx.external import is_external
from gradcam_multi_onnx.source import open_source, serialise

_STATISTICS = 3  # of BatchNormalization's inputs, those from here on were not learned as weights


def reweigh(model: Any, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> bytes:
    """Return the content of a file with each floating-point initialiser as `change` makes it.

    `change` gets the name of the layer that reads it, through what is computed from constants
    alone, and the array. Raises ModelFileError for a file that cannot be read or written.
    """
    source = open_source(model)
    proto = source.parse()
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    if any(is_external(tensor) for tensor in tensors.values()):
        try:
            folder = str(source.path.parent) if source.path else ""
            external_data_helper.load_external_data_for_model(proto, folder)
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelFileError(
                f"the weights of {source.name} cannot be read: {' '.join(str(error).split())}; "
                "give the path of a file with its data beside it"
            ) from error
    for layer, name in _owners(proto.graph, set(tensors)):
        array = numpy_helper.to_array(tensors[name])
        if array.dtype.kind == "f" and array.size > 1:
            changed = np.asarray(change(layer, array.copy()), array.dtype)
            tensors[name].CopyFrom(numpy_helper.from_array(changed, name))
    return serialise(proto)


def _owners(graph: onnx.GraphProto, weights: set[str]) -> Iterator[tuple[str, str]]:
    """Yield each initialiser that is learned, once, with the first layer that it goes into."""
    data = {value.name for value in graph.input} - weights
    made = {name: (name,) for name in weights}
    owned: set[str] = set()
    for node in graph.node:
        read = node.input[:_STATISTICS] if node.op_type == "BatchNormalization" else node.input
        origins = tuple(origin for name in read for origin in made.get(name, ()))
        if data.isdisjoint(node.input):  # from constants alone
            made |= {name: origins for name in node.output}
            continue
        data.update(node.output)
        for origin in origins:
            if origin not in owned:
                owned.add(origin)
                yield node.output[0], origin
