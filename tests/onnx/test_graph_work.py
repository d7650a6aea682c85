"""The graph as a whole: what is kept, folded and pruned, and models in unusual forms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from gradcam_multi_onnx import plugin
from gradcam_multi_onnx.plan import Backward, Plan
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(4, 3, 3, 3)).astype(np.float32)
DENSE = RANDOM.normal(size=(5, 4)).astype(np.float32)
X = RANDOM.normal(size=(2, 3, 8, 8)).astype(np.float32)
BODY = [
    node("Conv", ["x", "w"], ["c"], "/features/features.0/Conv", pads=[1, 1, 1, 1]),
    node("Relu", ["c"], ["a"], "/features/features.1/Relu"),
    node("GlobalAveragePool", ["a"], ["p"], "/pool/GlobalAveragePool"),
    node("Flatten", ["p"], ["f"], "/Flatten"),
    node("Gemm", ["f", "d"], ["y"], "/head/Gemm", transB=1),
]


def model(
    nodes: Sequence[Any] = BODY, weights: dict[str, Any] | None = None, *, opset: int = 18,
    outputs: tuple[str, ...] = ("y",), shape: tuple[Any, ...] = ("N", 3, 8, 8), **more: Any,
) -> Any:  # fmt: skip
    """A convolution, ReLU, pooling and dense classifier, or other nodes."""
    stored = {"w": WEIGHT, "d": DENSE} | (weights or {})
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in stored.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "g", inputs, results, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def gradient(given: Any, layer: str = "a", output: str = "y") -> Any:
    with plugin.gradcam_multi_open(given).trace(X, [layer]) as trace:
        cotangent = np.zeros_like(trace.logits[output])
        cotangent[:, 1:2] = 1
        return trace.vjp({output: cotangent})[0]


EXPECTED = np.broadcast_to(DENSE[1][:, None, None] / 64, (2, 4, 8, 8))


def same(found: Any) -> None:
    # One product and one division in float32 of values below 1.
    np.testing.assert_allclose(found, EXPECTED, rtol=0, atol=1e-7)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 21])
def test_any_opset_runs_as_it_is(opset: int) -> None:
    nodes = BODY if opset > 10 else [*BODY[:4], node("Gemm", ["f", "d", "b"], ["y"], transB=1)]
    same(gradient(model(nodes, {"b": np.zeros(5, np.float32)}, opset=opset)))


def test_initialisers_that_are_inputs_too() -> None:
    proto = model()
    for tensor in proto.graph.initializer:
        kind = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        proto.graph.input.append(kind)
    opened = plugin.gradcam_multi_open(proto)
    assert [spec.name for spec in opened.inputs] == ["x"]
    same(gradient(proto))


def test_nodes_in_any_order() -> None:
    same(gradient(model(BODY[::-1])))


def test_a_value_used_many_times_and_through_shared_parts() -> None:
    nodes = [
        *BODY[:2],
        node("Add", ["a", "a"], ["two"]),
        node("Sub", ["two", "a"], ["one"]),
        node("GlobalAveragePool", ["one"], ["p"]),
        *BODY[3:],
    ]
    same(gradient(model(nodes)))


def test_names_that_clash_with_the_gradient_graphs() -> None:
    renamed = {"c": "vjp_1_cotangent", "p": "vjp_2_Gemm", "f": "vjp_3_constant"}
    nodes = []
    for each in BODY:
        copy = type(each)()
        copy.CopyFrom(each)
        for names in (copy.input, copy.output):
            names[:] = [renamed.get(name, name) for name in names]
        nodes.append(copy)
    same(gradient(model(nodes)))


def test_several_outputs_keep_what_belongs_to_each() -> None:
    nodes = [*BODY, node("Sin", ["c"], ["aux"]), node("Cos", ["x"], ["other"])]
    proto = model(nodes, outputs=("y", "aux"))
    same(gradient(proto))
    assert not gradient(proto, "c", "aux")[:, 2:].any()


def test_branches_read_values_from_outside() -> None:
    branches = [
        helper.make_graph(
            [node(op, ["c"], [op])], op, [],
            [helper.make_tensor_value_info(op, TensorProto.FLOAT, None)],
        )
        for op in ("Relu", "Neg")
    ]  # fmt: skip
    branch = node("If", ["yes"], ["a"], then_branch=branches[0], else_branch=branches[1])
    same(gradient(model([BODY[0], branch, *BODY[2:]], {"yes": np.array(True)})))


def test_functions_are_inlined() -> None:
    pooled = helper.make_function(
        "own", "Pooled", ["v"], ["r"],
        [node("GlobalAveragePool", ["v"], ["q"]), node("Flatten", ["q"], ["r"])],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    nodes = [*BODY[:2], node("Pooled", ["a"], ["f"], domain="own"), BODY[4]]
    same(gradient(model(nodes, functions=[pooled])))


def backward(proto: Any, layer: str) -> Backward:
    opened = plugin.gradcam_multi_open(proto)
    plan = Plan(opened._graph, (layer,), {"y": "y"})
    found = plan.backward["y"]
    assert isinstance(found, Backward)
    return found


def test_the_gradient_graph_holds_only_what_lies_behind_the_layer() -> None:
    dead = [node("Conv", ["a", "v"], ["dead"]), node("Tanh", ["dead"], ["end"])]
    found = backward(model([*BODY, *dead], {"v": WEIGHT[:, :, :1, :1].repeat(2, 1)[:, :4]}), "a")
    assert found.gradient.reads == ()
    made = found.gradient.model
    assert {t.name for t in made.graph.initializer} & {"w", "v"} == set()
    assert "Tanh" not in {n.op_type for n in made.graph.node}
    read = {name for n in made.graph.node for name in n.input}
    results = {v.name for v in made.graph.output}
    assert all(set(n.output) & (read | results) for n in made.graph.node)
    onnx.checker.check_model(made, full_check=True)


def test_constants_are_folded_before_the_gradient_graph() -> None:
    """The dense weights are computed by three nodes; the gradient graph holds their result."""
    nodes = [
        *BODY[:4],
        node("Transpose", ["d"], ["t"]),
        node("Neg", ["t"], ["n"]),
        node("Neg", ["n"], ["weight"]),
        node("Gemm", ["f", "weight"], ["y"]),
    ]
    same(gradient(model(nodes)))
    operators = {n.op_type for n in backward(model(nodes), "a").gradient.model.graph.node}
    assert "Neg" not in operators


def test_an_unsound_gradient_graph_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradcam_multi_onnx import plan

    from gradcam_multi.errors import UnsupportedError

    right = plan.differentiate

    def wrong(*args: Any, **kwargs: Any) -> Any:
        made = right(*args, **kwargs)
        made.model.graph.node[0].op_type = "Nonsense"
        return made

    monkeypatch.setattr(plan, "differentiate", wrong)
    with pytest.raises(UnsupportedError, match="not valid ONNX"):
        gradient(model())


def test_declared_shapes_below_zero_are_free() -> None:
    same(gradient(model(shape=(-1, 3, 8, 8))))
    assert plugin.gradcam_multi_open(model(shape=(-1, 3, 8, 8))).inputs[0].shape[0] is None


def test_sources_are_taken_from_node_names_and_metadata() -> None:
    old = model(producer_name="pytorch")
    sources = [layer.source for layer in plugin.gradcam_multi_open(old).layers()]
    assert sources == ["features.0", "features.1", "pool", None, "head"]
    assert {layer.source for layer in plugin.gradcam_multi_open(model()).layers()} == {None}
    new = model()
    key, scopes = (
        "pkg.torch.onnx.name_scopes",
        "['', 'layer1', 'layer1.0', 'layer1.0.conv', 'conv2d']",
    )
    new.graph.node[0].metadata_props.add(key=key, value=scopes)
    new.graph.node[1].metadata_props.add(key=key, value="['', 'relu']")
    namespace = ": main.Net/pool: main.Pool/mean: aten.mean.dim"
    new.graph.node[2].metadata_props.add(key="namespace", value=namespace)
    new.graph.node[3].metadata_props.add(key=key, value="[" * 5000)
    sources = [layer.source for layer in plugin.gradcam_multi_open(new).layers()]
    assert sources == ["layer1.0.conv", None, "pool", None, None]
    converted = model(producer_name="tf2onnx")
    converted.graph.node[0].name = "StatefulPartitionedCall/model/block1/Conv2D"
    assert plugin.gradcam_multi_open(converted).layers()[0].source == "model/block1"


def test_the_table_shows_sources_where_there_are_any() -> None:
    from gradcam_multi.layers import mark_default

    table = str(mark_default(plugin.gradcam_multi_open(model(producer_name="pytorch")).layers()))
    assert table.splitlines()[0].split() == ["layer", "kind", "shape", "grid", "source"]
    assert "features.1" in table
    assert "source" not in str(mark_default(plugin.gradcam_multi_open(model()).layers()))
