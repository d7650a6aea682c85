"""The reverse walk on small graphs: several uses, refusals, what third parties add."""

from typing import Any

import numpy as np
import onnx
import pytest
from gradcam_multi_onnx.autodiff import registry
from gradcam_multi_onnx.autodiff.registry import Entry, Registry
from gradcam_multi_onnx.autodiff.rules import REGISTRY
from gradcam_multi_onnx.autodiff.walk import Gradient, differentiate
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.session import make_session
from gradcam_multi_onnx.source import open_source
from onnx import TensorProto, helper, numpy_helper

from gradcam_multi.errors import GradcamError, LayerNotOnPathError, UnsupportedError


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    shape: tuple[Any, ...] = ("N", 2, 4, 4),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 18,
) -> onnx.ModelProto:
    """A model of nodes that take `x`."""
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "small", inputs, results, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def graph_of(*args: Any, **kwargs: Any) -> Graph:
    return Graph(open_source(model(*args, **kwargs)))


def run(gradient: Gradient, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = make_session(gradient.model.SerializeToString())
    values = session.run(list(gradient.results.values()), feeds)
    return dict(zip(gradient.results, values, strict=True))


node = helper.make_node


def test_a_value_used_many_times_gathers_all_its_gradients() -> None:
    graph = graph_of([node("Mul", ["x", "x"], ["s"]), node("Add", ["s", "x"], ["y"])])
    back = differentiate(graph, ["x"], "y")
    x = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    g = np.ones_like(x)
    np.testing.assert_array_equal(run(back, {back.cotangent: g, "x": x})["x"], 2 * x + 1)


def test_several_targets_get_total_derivatives() -> None:
    graph = graph_of(
        [node("Neg", ["x"], ["a"]), node("Neg", ["a"], ["b"]), node("Add", ["a", "b"], ["y"])]
    )
    back = differentiate(graph, ["a", "b"], "y")
    g = np.ones((1, 2, 4, 4), np.float32)
    found = run(back, {back.cotangent: g})
    np.testing.assert_array_equal(found["a"], 0 * g)  # directly 1, through b -1
    np.testing.assert_array_equal(found["b"], g)


def test_only_what_the_rules_read_is_read() -> None:
    weights = {"w": np.ones((3, 2), np.float32)}
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("GlobalAveragePool", ["a"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w"], ["y"], transB=1),
    ]
    graph = graph_of(nodes, weights)
    back = differentiate(graph, ["a"], "y")
    assert back.reads == ()
    assert {n.op_type for n in back.model.graph.node} <= {
        "Gemm",
        "Reshape",
        "Div",
        "Mul",  # by ones: the mean's gradient, spread over the grid
        "Identity",
    }
    assert differentiate(graph, ["x"], "y").reads == ("a",)  # the ReLU's mask
    onnx.checker.check_model(back.model, full_check=True)


def test_results_are_free_in_the_batch() -> None:
    graph = graph_of([node("Relu", ["x"], ["a"]), node("GlobalAveragePool", ["a"], ["y"])])
    back = differentiate(graph, ["a"], "y")
    for n in (1, 5):
        g = np.ones((n, 2, 1, 1), np.float32)
        assert run(back, {back.cotangent: g})["a"].shape == (n, 2, 4, 4)


def test_free_height_and_width() -> None:
    weights = {"w": np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)}
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 0, 1, 0]),
        node("MaxPool", ["c"], ["m"], kernel_shape=[2, 2]),
        node("GlobalAveragePool", ["m"], ["y"]),
    ]
    free = differentiate(graph_of(nodes, weights, shape=("N", 2, "H", "W")), ["x"], "y")
    x = np.random.default_rng(1).normal(size=(2, 2, 9, 10)).astype(np.float32)
    fixed = differentiate(graph_of(nodes, weights, shape=(2, 2, 9, 10)), ["x"], "y")
    assert not set(fixed.reads) - {"x", "c"}  # what the maximum is taken of, and no shapes
    forward = make_session(
        model(nodes, weights, outputs=("c", "m", "y"), shape=x.shape).SerializeToString()
    )
    values = {"x": x, **dict(zip("cmy", forward.run(["c", "m", "y"], {"x": x}), strict=True))}
    g = np.random.default_rng(2).normal(size=(2, 3, 1, 1)).astype(np.float32)
    one, other = (
        run(back, {**{name: values[name] for name in back.reads}, back.cotangent: g})["x"]
        for back in (free, fixed)
    )
    # The same sums by other kernels: a few roundings of values below 1.
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_broadcasting_of_unknown_extents_is_undone_at_run_time() -> None:
    """The second input may be one row or as many as the first: only the run can tell."""
    two = model([node("Mul", ["x", "z"], ["y"])], shape=("N", "M"))
    two.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ("N", "K")))
    back = differentiate(Graph(open_source(two)), ["z"], "y")
    x, g = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    for columns, expected in ((1, x.sum(1, keepdims=True)), (3, x)):
        feeds = {"x": x, "z": np.ones((2, columns), np.float32), back.cotangent: g}
        found = run(back, {name: feeds[name] for name in (*back.reads, back.cotangent)})
        np.testing.assert_array_equal(found["z"], expected)


def test_names_of_both_graphs_never_clash() -> None:
    nodes = [
        node("Sigmoid", ["x"], ["vjp_1_cotangent"]),
        node("Mul", ["vjp_1_cotangent", "x"], ["y"]),
    ]
    back = differentiate(graph_of(nodes), ["x"], "y")
    names = [n for made in back.model.graph.node for n in made.output]
    names += [v.name for v in (*back.model.graph.input, *back.model.graph.initializer)]
    assert len(names) == len(set(names))


def refused(nodes: list[onnx.NodeProto], **kwargs: Any) -> str:
    with pytest.raises(UnsupportedError) as raised:
        differentiate(graph_of(nodes, **kwargs), ["x"], "y")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_missing_rule_is_named_with_the_nearest_layer_in_reach() -> None:
    sums = node("Sums", ["x"], ["c"], "the_node", domain="my.domain")
    graph = graph_of([sums, node("Relu", ["c"], ["y"])])
    graph.types["c"] = graph.types["y"] = graph.types["x"]  # no inference for foreign operators
    with pytest.raises(UnsupportedError) as raised:
        differentiate(graph, ["x"], "y")
    message = str(raised.value)
    assert "\n" not in message
    assert "Sums 'the_node' (my.domain opset 1)" in message
    assert "it has no rule" in message
    assert "'c'" in message


def test_a_refusal_tells_its_reason() -> None:
    assert "tells an inverse matrix" in refused([node("Det", ["x"], ["y"])])


def test_an_attribute_that_the_rule_does_not_know_is_refused() -> None:
    relu = node("Relu", ["x"], ["y"], slope=0.5)
    assert "attribute 'slope' is not understood" in refused([relu])


def test_training_mode_is_refused() -> None:
    weights = {name: np.ones(2, np.float32) for name in "sbmv"}
    training = node("BatchNormalization", ["x", *"sbmv"], ["y", "a", "c"], training_mode=1)
    assert "training mode" in refused([training], weights=weights)


def test_a_dropout_in_training_is_refused() -> None:
    weights = {"r": np.array(0.5, np.float32), "t": np.array(True)}
    assert "training mode" in refused([node("Dropout", ["x", "r", "t"], ["y"])], weights=weights)


def test_old_opsets_are_refused() -> None:
    assert "opsets before 7 have no rules" in refused([node("Relu", ["x"], ["y"])], opset=6)


def test_values_without_gradient_stop_the_walk() -> None:
    graph = graph_of([node("ArgMax", ["x"], ["i"], axis=1), node("Cast", ["i"], ["y"], to=1)])
    with pytest.raises(LayerNotOnPathError, match="'y' does not depend on 'x'"):
        differentiate(graph, ["x"], "y")


def test_shape_arithmetic_beside_the_values_is_no_obstacle() -> None:
    nodes = [
        node("Shape", ["x"], ["all"]),
        node("Gather", ["all", "zero"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    weights = {"zero": np.array([0]), "rest": np.array([-1])}
    back = differentiate(graph_of(nodes, weights), ["x"], "y")
    assert back.reads == ()
    g = np.arange(64, dtype=np.float32).reshape(2, 32)
    np.testing.assert_array_equal(run(back, {back.cotangent: g})["x"].ravel(), g.ravel())


def test_a_third_party_adds_rules_for_its_own_domain() -> None:
    own = Registry()
    for entry in REGISTRY.entries():
        own.add(entry)
    own.add(Entry("Twice", "my.domain", since=1, rule=lambda n, g: (g * 2,)))
    nodes = [node("Twice", ["x"], ["t"], domain="my.domain"), node("Neg", ["t"], ["y"])]
    graph = graph_of(nodes)
    graph.types["t"] = graph.types["y"] = graph.types["x"]  # no inference for foreign operators
    back = differentiate(graph, ["x"], "y", own)
    g = np.ones((1, 2, 4, 4), np.float32)
    np.testing.assert_array_equal(run(back, {back.cotangent: g})["x"], -2 * g)
    with pytest.raises(UnsupportedError, match=r"Twice 't' \(my.domain opset 1\): it has no rule"):
        differentiate(graph, ["x"], "y")


def test_a_rule_must_answer_for_every_input() -> None:
    own = Registry()
    own.add(Entry("Add", rule=lambda n, g: (g,)))
    with pytest.raises(ValueError, match="zip"):
        differentiate(graph_of([node("Add", ["x", "x"], ["y"])]), ["x"], "y", own)


def test_newer_entries_go_before_older_ones_within_their_opsets() -> None:
    own = Registry()
    own.add(Entry("Relu", reason="always"))
    own.add(Entry("Relu", since=9, until=12, reason="then"))
    reasons = [found.reason for opset in (8, 9, 12, 13) if (found := own.find("", "Relu", opset))]
    assert reasons == ["always", "then", "then", "always"]
    assert own.find("", "Relu", 6) is None


def test_refusals_are_no_errors_of_the_package() -> None:
    """They never leave the walk, which adds where and what."""
    assert not issubclass(registry.Refusal, GradcamError)
