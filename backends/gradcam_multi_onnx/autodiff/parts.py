"""Values of which a gradient graph reads one slice: the forward run keeps that alone.

Behind a class token a block goes back for one token. Kept whole, what it reads of its softmax and
its hidden units was as large as all else that the explanation of a ViT holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from gradcam_multi_onnx.graph import Graph, reads

_INPUTS = 10  # the opset since which Slice takes its bounds as inputs


@dataclass(frozen=True)
class Part:
    """The cells from `start` up to `stop` of a forward value, along one axis."""

    source: str
    axis: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """What the part is called as a result of the forward run."""
        return f"{self.source}[{self.axis}, {self.start}:{self.stop}]"

    def nodes(self) -> list[NodeProto]:
        """Return what computes it in the forward graph."""
        words = {"start": self.start, "stop": self.stop, "axis": self.axis}
        names = [f"{self.name} {word}" for word in words]
        bounds = [
            onnx.helper.make_node("Constant", [], [name], value=numpy_helper.from_array(number))
            for name, number in zip(names, np.array([*words.values()])[:, None], strict=True)
        ]
        return [*bounds, onnx.helper.make_node("Slice", [self.source, *names], [self.name])]

    def of(self, values: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Return it, cut from its source where that is among the values."""
        if self.source not in values:
            return values[self.name]
        return values[self.source][(slice(None),) * self.axis + (slice(self.start, self.stop),)]


def take_parts(graph: Graph, model: onnx.ModelProto) -> dict[str, Part]:
    """Let a gradient graph take slices where it takes values to slice; return them by input.

    The forward `graph` computes these values. Those that are read otherwise, too, stay whole.
    """
    if graph.opsets.get("", 0) < _INPUTS:
        return {}
    body = model.graph
    numbers = {t.name: numpy_helper.to_array(t) for t in body.initializer if prod(t.dims) == 1}
    readers: dict[str, list[NodeProto]] = {}
    for node in body.node:
        for name in reads(node):
            readers.setdefault(name, []).append(node)
    found = {}
    for value in body.input:
        by = readers.get(value.name, [])
        if value.name not in graph.producer or len(by) != 1 or by[0].op_type != "Slice":
            continue
        (node,) = by
        source, *bounds = node.input
        if source != value.name or len(bounds) != 3 or not numbers.keys() >= set(bounds):
            continue
        start, stop, axis = (int(numbers[name].item()) for name in bounds)
        extent = value.type.tensor_type.shape.dim[axis] if axis >= 0 else None
        if extent is None or not 0 <= start < stop <= extent.dim_value:
            continue
        value.name, extent.dim_value = node.output[0], stop - start
        found[value.name] = Part(source, axis, start, stop)
        body.node.remove(node)
    return found
