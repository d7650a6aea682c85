"""Small ONNX graphs, and gradients through them as the adapter computes them."""

from typing import Any

import numpy as np
import onnx
from gradcam_multi_onnx.autodiff.walk import Gradient
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.session import make_session
from gradcam_multi_onnx.source import open_source
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
Arrays = dict[str, np.ndarray]


def graph_of(
    nodes: list[onnx.NodeProto], shape: tuple[Any, ...], weights: Arrays | None = None
) -> Graph:
    """Nodes from `x` to `y`."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    body = helper.make_graph(nodes, "small", [x], [onnx.ValueInfoProto(name="y")], tensors)
    opset = helper.make_opsetid("", 18)
    return Graph(open_source(helper.make_model(body, opset_imports=[opset], ir_version=8)))


def operators(back: Gradient) -> set[str]:
    return {made.op_type for made in back.model.graph.node}


def gradients(graph: Graph, back: Gradient, x: np.ndarray, g: np.ndarray) -> Arrays:
    """Run the model for what the gradient reads, then the gradient."""
    onnx.checker.check_model(back.model, full_check=True)
    made = [name for name in back.reads if name != "x"]
    values = {"x": x}
    if made:
        model = graph.source.parse()
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name != "y")
        found = make_session(model.SerializeToString()).run(made, {"x": x})
        values |= dict(zip(made, found, strict=True))
    feeds = {name: values[name] for name in back.reads} | {back.cotangent: g}
    session = make_session(back.model.SerializeToString())
    results = session.run(list(back.results.values()), feeds)
    return dict(zip(back.results, results, strict=True))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
