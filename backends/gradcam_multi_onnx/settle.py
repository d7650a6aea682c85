"""Arithmetic on shapes, as exporters leave it in a graph, turned into constants.

What is computed from the shapes of values alone is the same for all inputs of one size. Two runs,
with one item and with two, tell what of it is the same for every batch, too: pads, starts of
slices, scales, the conditions of an If.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from gradcam_multi.errors import GradcamError
from gradcam_multi_onnx.feeds import Feeds
from gradcam_multi_onnx.graph import Graph, reads
from gradcam_multi_onnx.inference import infer
from gradcam_multi_onnx.session import Forward
from gradcam_multi_onnx.skeleton import SMALL

_MEASURES = {"Shape", "Size"}
_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
           "RandomUniformLike"}  # fmt: skip
_COUNTS = {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "SequenceMap",
           "StringSplit", "Unique"}  # fmt: skip
"""Operators whose results' shapes depend on their inputs' values."""

_SIZED = {"CenterCropPad", "ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Reshape",
          "Resize", "Slice", "Split", "Tile", "TopK", "Upsample"}  # fmt: skip
"""Operators whose results' shapes depend on their inputs' values, if these do on the data."""


def shape_values(graph: Graph) -> list[str]:
    """Return the values that depend on the shapes of the model's inputs, but not on their data."""
    data = {value.name for value in graph.inputs}
    counted: set[str] = set()  # whose very shapes depend on the data
    found: dict[str, None] = {}
    for node in graph.nodes:
        given, results = set(reads(node)), [name for name in node.output if name]
        if given.isdisjoint(graph.variable) and node.op_type not in _RANDOM:
            continue
        if node.op_type in _MEASURES:
            (data.update if given & counted else found.update)(dict.fromkeys(results))
            continue
        if given & data or node.op_type in _RANDOM:
            data.update(results)
        else:
            found.update(dict.fromkeys(results))
        if given & counted or (node.op_type in _COUNTS and given & data) or _sized(node, data):
            counted.update(results)
    return [name for name in found if name not in data]


def _sized(node: NodeProto, data: set[str]) -> bool:
    # The first input of most is what is moved; of a few it is the size itself.
    first = 0 if node.op_type in ("ConstantOfShape", "Range") else 1
    return node.op_type in _SIZED and not data.isdisjoint(node.input[first:])


def settled(graph: Graph, sample: Feeds, batched: Iterable[str]) -> Graph:
    """Return the graph with constants for all that the shapes of a sample decide.

    `sample` holds one batch; `batched` names the inputs whose first axis is free. The result holds
    for inputs of the sample's size. A model without arithmetic on shapes comes back as it is.
    """
    names = shape_values(graph)
    if not names:
        return graph
    free = set(batched)
    try:
        forward = Forward(graph.source, (), names)
        first = forward(sample)
        second = first if not free else forward(
            {n: np.repeat(a[:1], len(a) + 1, 0) if n in free else a for n, a in sample.items()}
        )  # fmt: skip
    except GradcamError:
        return graph  # the run itself will say what does not fit
    same = {
        name: value
        for name, value in first.items()
        if isinstance(value, np.ndarray)
        and value.size <= SMALL
        and np.array_equal(value, second[name], equal_nan=value.dtype.kind == "f")
    }
    return _with_constants(graph, same, sample, free)


def _with_constants(graph: Graph, values: Feeds, sample: Feeds, free: set[str]) -> Graph:
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(graph.skeleton)
    del skeleton.graph.value_info[:]
    kept = [node for node in graph.nodes if not set(filter(None, node.output)) <= set(values)]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in kept]
    made = {name for node in kept for name in node.output}
    del skeleton.graph.node[:]
    skeleton.graph.node.extend(copies)
    skeleton.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in values.items() if name not in made
    )
    for value in skeleton.graph.input:
        for axis, n in enumerate(np.shape(sample.get(value.name, ()))):
            if axis or value.name not in free:
                value.type.tensor_type.shape.dim[axis].dim_value = n
    for output in skeleton.graph.output:
        output.type.tensor_type.ClearField("shape")
    types = {name: kind for name, kind in infer(skeleton).items() if kind.shape is not None}
    specialised = object.__new__(Graph)
    specialised.__dict__.update(graph.__dict__)
    specialised.types = {**graph.types, **types}
    specialised._folded = {**graph._folded, **values}
    specialised.__dict__["variable"] = graph.variable - set(values)
    return specialised
