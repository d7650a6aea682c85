"""Arithmetic on shapes, as exporters leave it in a graph, turned into constants.

What is computed from the shapes of values alone is the same for all inputs of one size. Two runs,
with one item and with two, tell what of it is the same for every batch, too: pads, starts of
slices, scales, the conditions of an If.
"""

from collections.abc import Iterable, Mapping
from math import prod

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from gradcam_multi.errors import GradcamError
from gradcam_multi_onnx.feeds import Feeds
from gradcam_multi_onnx.graph import Graph, reads, subgraphs
from gradcam_multi_onnx.inference import Type, infer
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


def shape_values(graph: Graph) -> tuple[list[str], set[str]]:
    """Return the values that depend on the shapes of the model's inputs, but not on their data.

    The second are the values whose very shapes depend on the data.
    """
    data = {value.name for value in graph.inputs}
    counted: set[str] = set()
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
        if given & counted or _counts(node, data) or _sized(node, data):
            counted.update(results)
    return [name for name in found if name not in data], counted


def _small(graph: Graph) -> list[str]:
    shapes = {name: graph.type(name).shape for name in graph.producer}
    return [
        name
        for name, shape in shapes.items()
        if shape is not None
        and prod(n if isinstance(n, int) else SMALL + 1 for n in shape) <= SMALL
    ]


def _counts(node: NodeProto, data: set[str]) -> bool:
    if node.op_type == "If" and node.input[0] not in data:
        # Shapes decide on the branch; inside it, counting would still depend on the data.
        return any(n.op_type in _COUNTS for body in subgraphs(node) for n in body.node)
    return node.op_type in _COUNTS and not data.isdisjoint(reads(node))


def _sized(node: NodeProto, data: set[str]) -> bool:
    # The first input of most is what is moved; of a few it is the size itself.
    first = 0 if node.op_type in ("ConstantOfShape", "Range") else 1
    return node.op_type in _SIZED and not data.isdisjoint(node.input[first:])


def settled(graph: Graph, sample: Feeds, batched: Iterable[str], *, measure: bool = False) -> Graph:
    """Return the graph with constants for all that the shapes of a sample decide.

    `sample` holds one batch; `batched` names the inputs whose first axis is free. Small constants
    that the graph computes are folded, too, for shape inference does not. The result holds for
    inputs of the sample's size. With `measure`, shapes that cannot be inferred are taken from two
    runs as well. A model without any of this comes back as it is.
    """
    folded = graph.arrays(filter(graph.constant, _small(graph)))
    (names, counted), free = shape_values(graph), set(batched)
    more = {n: np.repeat(a[:1], len(a) + 1, 0) if n in free else a for n, a in sample.items()}
    if names:
        folded |= _decided(graph, names, sample, more)
    specialised = _with_constants(graph, folded, sample, free) if folded else graph
    if measure:
        specialised.types |= _measured(specialised, counted, sample, more)
    return specialised


def types_of(graph: Graph, names: Iterable[str], *samples: Feeds) -> list[dict[str, Type]]:
    """Return the types of values, shapes included, as a run of each sample shows them.

    Of most the shape alone leaves the session: all values of a network at once are several times
    as large as what it holds when it runs. Sequences have no type.
    """
    apart = set(names)
    known = {n for n in apart & set(graph.types) if graph.type(n).dtype and "" in graph.opsets}
    asked = {name: f"{name} shape" for name in known}
    nodes = [onnx.helper.make_node("Shape", [n], [shape]) for n, shape in sorted(asked.items())]
    forward = Forward(graph.source, (), [*(apart - known), *asked.values()], nodes=nodes)
    return [
        {name: kind for name in apart if (kind := _type(graph, name, asked, found))}
        for found in map(forward, samples)
    ]


def _type(graph: Graph, name: str, asked: Mapping[str, str], found: Feeds) -> Type | None:
    if name in asked:
        return Type(graph.type(name).dtype, tuple(found[asked[name]].tolist()))
    array = found[name]
    if not isinstance(array, np.ndarray):
        return None
    return Type(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _decided(graph: Graph, names: list[str], sample: Feeds, more: Feeds) -> Feeds:
    """Return those of the values that one item more does not change."""
    try:
        forward = Forward(graph.source, (), names)
        first, second = forward(sample), forward(more)
    except GradcamError:
        return {}  # the run itself will say what does not fit
    return {
        name: value
        for name, value in first.items()
        if isinstance(value, np.ndarray)
        and value.size <= SMALL
        and np.array_equal(value, second[name], equal_nan=value.dtype.kind == "f")
    }


def _measured(graph: Graph, counted: set[str], sample: Feeds, more: Feeds) -> dict[str, Type]:
    """Return types with the extents that one item more does not change."""
    unsure = [
        name for name in graph.producer
        if name in graph.variable and name not in counted
        and any(isinstance(n, str) for n in (graph.type(name).shape or ("",))[1:])
    ]  # fmt: skip
    try:
        first, second = types_of(graph, unsure, sample, more) if unsure else ({}, {})
    except GradcamError:
        return {}
    found = {}
    for name, kind in first.items():
        shapes = graph.type(name).shape, kind.shape, second[name].shape
        known, one, two = (shape or () for shape in shapes)
        if len(known) == len(one) == len(two) > 0:
            extents = zip(known, one, two, strict=True)
            found[name] = Type(kind.dtype, tuple(a if a == b else free for free, a, b in extents))
    return found


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
    for value in skeleton.graph.input:  # weights are among them
        for axis, n in enumerate(sample[value.name].shape if value.name in sample else ()):
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
