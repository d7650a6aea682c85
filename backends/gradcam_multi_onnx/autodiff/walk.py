"""The reverse walk: from an output back to some values, one rule per node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from gradcam_multi.errors import LayerNotOnPathError, UnsupportedError
from gradcam_multi_onnx.autodiff import rules
from gradcam_multi_onnx.autodiff.builder import IR_VERSION, OPSET, Builder
from gradcam_multi_onnx.autodiff.registry import FreeExtent, Refusal, Registry
from gradcam_multi_onnx.autodiff.sweep import Sweep, carriers
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Graph, reads
from gradcam_multi_onnx.session import as_float, on_cpu
from gradcam_multi_onnx.skeleton import SMALL


@dataclass(frozen=True)
class Gradient:
    """A gradient graph: a cotangent and some forward values in, one gradient per target out.

    `results` maps targets to outputs of `model`; a target on which nothing depends is absent.
    `lent` are weights that `model` takes as inputs, `weights` initialisers that it lacks.
    """

    model: onnx.ModelProto
    cotangent: str
    reads: tuple[str, ...]
    results: dict[str, str]
    double: bool
    lent: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def differentiate(
    graph: Graph, targets: Sequence[str], output: str, registry: Registry | None = None, *,
    referenced: bool = False,
) -> Gradient:  # fmt: skip
    """Return the graph that carries a cotangent of one value back to others.

    Large weights are loaded. Or they are `referenced`: left where they are beside the model, which
    needs a session whose folder is the source's, lent to the graph as inputs, or given apart. Such
    a graph is written for the runtime here; others with nothing that phones or browsers lack.
    Raises UnsupportedError at an operator that cannot be differentiated, and LayerNotOnPathError
    where the output depends on no target.
    """
    registry = registry or rules.REGISTRY
    builder = Builder(frozenset(graph.producer) | set(graph.types))
    seed = _seed(graph, builder, output)
    builder.extents_from(seed)
    if referenced and on_cpu(graph.source.providers):
        builder.local = seed.name
    carrying = carriers(graph, registry, targets)
    path = _carried(graph, targets, carrying) & graph.ancestors([output])
    sweep = Sweep(builder, registry, path, carrying, frozenset(targets))
    sweep.arrived[output] = [seed]
    gradients: dict[str, Value] = {}
    for name in targets:
        if name not in graph.producer and name == output:
            gradients[name] = seed
    for node in reversed(graph.nodes):
        cotangents = sweep.cotangents(graph, node)
        gradients |= {
            name: g for name, g in zip(node.output, cotangents, strict=True)
            if g is not None and name in targets
        }  # fmt: skip
        if any(g is not None for g in cotangents) and not path.isdisjoint(reads(node)):
            try:
                sweep.back(graph, node, cotangents)
            except FreeExtent as error:
                raise FreeExtent(str(graph.refuse(node, str(error)))) from error
            except Refusal as error:
                raise _refused(graph, node, error, output) from error
    for name in set(targets) & set(sweep.arrived):  # targets that are inputs of the model
        total = sweep.cotangent(graph, name)
        if total is not None:
            gradients[name] = total
    if not gradients:
        raise LayerNotOnPathError(
            f"output {output!r} does not depend on {' or '.join(map(repr, targets))}; "
            "name a layer on the way to it"
        )
    return _finish(graph, builder, seed, gradients, referenced=referenced)


def _carried(graph: Graph, targets: Sequence[str], carriers: set[str]) -> set[str]:
    """Return what depends on targets by more than integers, such as their shapes."""
    found = set(targets)
    for node in graph.nodes:
        if any(n in found and (graph.type(n).floating or n in carriers) for n in reads(node)):
            found.update(name for name in node.output if name)
    return found


def _seed(graph: Graph, builder: Builder, output: str) -> Value:
    try:
        like = builder.source(output, graph.type(output))
    except Refusal as error:
        raise UnsupportedError(f"cannot differentiate {output!r}: {error}") from error
    dtype = like.dtype if graph.type(output).floating else TensorProto.FLOAT
    return Value(builder, builder.fresh("cotangent"), dtype, like.shape)


def _refused(graph: Graph, node: NodeProto, error: Refusal, output: str) -> UnsupportedError:
    # Everything behind this node has been differentiated by now, so its own result is in reach.
    results = [name for name in node.output if name and graph.type(name).floating]
    later = (
        f"the nearest later layer in reach of {output!r} is {results[0]!r}"
        if results
        else ("choose a layer behind it")
    )
    return UnsupportedError(f"{graph.refuse(node, str(error))}; {later}")


def _finish(
    graph: Graph, builder: Builder, seed: Value, gradients: dict[str, Value], *, referenced: bool
) -> Gradient:
    results = {}
    for name, g in gradients.items():
        results[name] = builder.op("Identity", g, shape=g.shape).name
    nodes = _pruned(builder.nodes, set(results.values()))
    made = {name for node in nodes for name in node.output}
    needed = {name for node in nodes for name in reads(node)} - made - {seed.name}
    own = [tensor for name, tensor in builder.tensors.items() if name in needed]
    forward = sorted(needed - set(builder.tensors))
    constants = [name for name in forward if graph.constant(name)]
    read = tuple(name for name in forward if name not in constants)
    lent = graph.lent(constants) if referenced else {}
    constants = [name for name in constants if name not in lent]
    weights = graph.beside(constants) if referenced else []
    beside = {tensor.name for tensor in weights}
    sources = [builder.source(name, graph.type(name)) for name in read]
    inputs = [
        onnx.helper.make_tensor_value_info(v.name, v.dtype, v.shape) for v in (seed, *sources)
    ]
    inputs += [
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
        for name, array in lent.items()
    ]
    # Weights of which branches read a part: initialisers that are inputs, too, stay as they are,
    # others are copied into the order that products like.
    in_part = {name for node in nodes if node.op_type == "If" for name in reads(node)}
    inputs += [
        onnx.helper.make_tensor_value_info(v.name, v.dtype, v.shape)
        for v in (builder.source(name, graph.type(name)) for name in constants)
        if v.name in in_part
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(results[name], g.dtype, g.shape)
        for name, g in gradients.items()
    ]
    body = onnx.helper.make_graph(nodes, "gradient", inputs, outputs, [*own, *weights])
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(body, opset_imports=[opset], ir_version=IR_VERSION)
    apart = {}
    for name, array in graph.arrays(set(constants) - beside).items():
        values = as_float(array)
        if referenced and values.size > SMALL and values.dtype in (np.float32, np.float64):
            apart[name] = values
        else:
            model.graph.initializer.append(numpy_helper.from_array(values, name))
    double = seed.dtype == TensorProto.DOUBLE
    return Gradient(model, seed.name, read, results, double, lent, apart)


def _pruned(nodes: Sequence[NodeProto], results: set[str]) -> list[NodeProto]:
    # ONNX Runtime executes what nobody reads, so dead nodes must go.
    wanted, kept = set(results), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            wanted.update(reads(node))
            kept.append(node)
    return kept[::-1]
