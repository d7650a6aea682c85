"""Listing, running and explaining ONNX models: what is particular to this adapter."""

import gc
from typing import Any

import numpy as np
import pytest
from gradcam_multi_onnx import check
from gradcam_multi_onnx.autodiff.registry import REGISTRY, Entry
from onnx import TensorProto, helper, numpy_helper
from small_onnx import CONV, DENSE, RANDOM, X, expected, model, node, opened

from gradcam_multi.errors import (
    InputError,
    LayerNotOnPathError,
    UnknownLayerError,
    UnsupportedError,
)

# -- layers -------------------------------------------------------------------------------------


def test_layers_are_listed_with_roles_and_edges() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Dropout", ["c"], ["dropped", "mask"]),
        node("Shape", ["dropped"], ["s"]),
        node("Reshape", ["dropped", "s"], ["r"]),
        node("Constant", [], ["two"], value_float=2.0),
        node("Mul", ["r", "two"], ["m"]),
        node("Split", ["m"], ["one", "other"], axis=1, num_outputs=2),
        node("GlobalAveragePool", ["other"], ["p"]),
        node("Softmax", ["p"], ["y"], axis=1),
    ]
    layers = opened(nodes, outputs=("y", "one")).layers()
    listed = {layer.name: layer for layer in layers}
    assert [*listed] == ["c", "dropped", "r", "m", "one", "other", "p", "y"]
    assert [layer.role for layer in layers] == [
        "conv", "identity", "other", "other", "other", "other", "pool", "other",
    ]  # fmt: skip
    assert listed["r"].inputs == ("dropped",)  # through the shape, too
    assert listed["m"].inputs == ("r",)
    assert (listed["y"].output, listed["one"].output, listed["p"].output) == ("y", "one", None)
    assert listed["other"].shape == (None, 2, 8, 8)
    assert listed["c"].kind == "Conv"
    assert all(layer.channel_axis == 1 for layer in layers)


def test_channels_are_followed_through_transposes() -> None:
    """What Keras exports: pictures with channels last around convolutions with channels first."""
    nodes = [
        node("Sub", ["x", "mean"], ["centred"]),
        node("Transpose", ["centred"], ["first"], perm=[0, 3, 1, 2]),
        node("Conv", ["first", "w"], ["c"]),
        node("Transpose", ["c"], ["last"], perm=[0, 2, 3, 1]),
        node("Relu", ["last"], ["a"]),
        node("ReduceMean", ["a", "axes"], ["p"], keepdims=0),
        node("MatMul", ["p", "d"], ["y"]),
    ]
    weights = {
        "w": CONV, "d": DENSE.T.copy(), "axes": np.array([1, 2]), "mean": np.ones(3, np.float32),
    }  # fmt: skip
    keras = opened(nodes, weights, inputs={"x": ("N", 8, 8, 3)})
    assert keras.inputs[0].layout == "channels_last"
    axes = {layer.name: layer.channel_axis for layer in keras.layers()}
    assert axes == {"centred": 3, "first": 1, "c": 1, "last": 3, "a": 3, "p": None, "y": None}
    cotangent = np.eye(5, dtype=np.float32)[:4]
    with keras.trace(X.transpose(0, 2, 3, 1), ["a", "c"]) as trace:
        last, first = trace.activations
        assert last.shape == first.shape == (4, 4, 6, 6)
        np.testing.assert_array_equal(last, np.maximum(first, 0))
        g, behind = trace.vjp({"y": cotangent})
        np.testing.assert_array_equal(behind, g * (first > 0))
        replayed = trace.replay("a", np.zeros_like(last))["y"]
        np.testing.assert_array_equal(replayed, np.zeros((4, 5)))


def test_tokens_have_their_channels_last() -> None:
    nodes = [
        node("LayerNormalization", ["x", "scale"], ["n"], axis=-1),
        node("MatMul", ["n", "d"], ["m"]),
        node("ReduceMean", ["m", "axes"], ["y"], keepdims=0),
    ]
    weights = {
        "scale": np.ones(8, np.float32),
        "d": np.ones((8, 5), np.float32),
        "axes": np.array([1]),
    }
    layers = opened(nodes, weights, inputs={"x": ("N", 9, 8)}).layers()
    assert [layer.channel_axis for layer in layers] == [2, 2, None]


def test_a_layer_goes_by_its_nodes_name_too() -> None:
    with opened().trace(X, ["conv_node", "c"]) as trace:
        np.testing.assert_array_equal(*trace.activations)
    with pytest.raises(UnknownLayerError, match="no layer 'conv_nod'; did you mean 'conv_node'"):
        with opened().trace(X, ["conv_nod"]):
            pass


def test_a_layer_in_a_dead_branch_is_not_on_the_path() -> None:
    nodes = [*model().graph.node, node("Neg", ["a"], ["dead"])]
    with opened(nodes).trace(X, ["dead"]) as trace:
        np.testing.assert_array_equal(trace.activations[0] <= 0, True)
        with pytest.raises(LayerNotOnPathError, match=r"'y' does not depend on .*'dead'"):
            trace.vjp({"y": np.ones((4, 5), np.float32)})


def test_types_that_inference_cannot_tell_are_learned_from_the_run() -> None:
    """The target of the Reshape comes from an input's values; its rank shows only in a run."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Unique", ["x"], ["u"]),
        node("Shape", ["c"], ["s"]),
        node("Compress", ["s", "all"], ["kept"], axis=0),
        node("Reshape", ["c", "kept"], ["r"]),
        node("GlobalAveragePool", ["r"], ["y"]),
    ]
    weights = {"w": CONV, "all": np.ones(4, bool)}
    learned = opened(nodes, weights)
    assert {layer.name: layer.shape for layer in learned.layers()}["r"] is None
    cotangent = np.ones((4, 4, 1, 1), np.float32)
    with learned.trace(X, ["c"]) as trace:
        (gradient,) = trace.vjp({"y": cotangent})
    np.testing.assert_array_equal(gradient, np.full((4, 4, 8, 8), np.float32(1 / 64)))
    assert {layer.name: layer.channel_axis for layer in learned.layers(X)}["r"] == 1


# -- outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("Softmax", "softmax"), ("LogSoftmax", "softmax"), ("Sigmoid", "sigmoid")],
)
def test_a_final_activation_is_stepped_behind(ending: str, kind: str) -> None:
    nodes = [
        *model().graph.node,
        node(ending, ["y"], ["s"]),
        node("Identity", ["s"], ["i"]),
        node("Reshape", ["i", "shape"], ["z"]),
    ]
    weights = {"w": CONV, "d": DENSE, "shape": np.array([0, 5, 1])}
    ends = opened(nodes, weights, outputs=("z",))
    assert ends.outputs[0].activation == kind
    with opened().trace(X, ["a"]) as trace:
        plain = trace.logits["y"]
    cotangent = RANDOM.normal(size=(4, 5)).astype(np.float32)
    with ends.trace(X, ["a"]) as trace:
        assert trace.outputs["z"].shape == trace.logits["z"].shape == (4, 5, 1)
        np.testing.assert_array_equal(trace.logits["z"][..., 0], plain)
        (gradient,) = trace.vjp({"z": cotangent[..., None]})
    np.testing.assert_allclose(gradient, expected(X, cotangent), rtol=0, atol=1e-7)


def test_several_outputs_are_explained_apart_or_together() -> None:
    nodes = [
        *model().graph.node,
        node("Neg", ["f"], ["aux"]),
        node("ArgMax", ["y"], ["label"], axis=1),
    ]
    several = opened(nodes, outputs=("y", "aux", "label"))
    assert [spec.name for spec in several.outputs] == ["y", "aux", "label"]
    c, d = np.ones((4, 5), np.float32), np.ones((4, 4), np.float32)
    with several.trace(X, ["a"]) as trace:
        assert trace.outputs["label"].dtype == np.float32
        (one,), (other,) = trace.vjp({"y": c}), trace.vjp({"aux": d})
        np.testing.assert_array_equal(trace.vjp({"y": c, "aux": d})[0], one + other)
        np.testing.assert_array_equal(other, np.full((4, 4, 8, 8), np.float32(-1 / 64)))
        with pytest.raises(LayerNotOnPathError, match="'label' does not depend on"):
            trace.vjp({"label": np.ones((4, 1), np.float32)})
        with pytest.raises(InputError, match="no output is called 'z'"):
            trace.vjp({"z": c})
        with pytest.raises(InputError, match=r"must have shape \(4, 5\), got \(4, 4\)"):
            trace.vjp({"y": d})


def test_a_part_that_cannot_be_differentiated_is_named_when_it_is_needed() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("GridSample", ["c", "grid"], ["sampled"], "sampling"),
        node("Relu", ["sampled"], ["a"]),
        node("GlobalAveragePool", ["a"], ["y"]),
    ]
    partly = opened(nodes, {"w": CONV, "grid": np.full((4, 6, 6, 2), 0.1, np.float32)})
    cotangent = np.ones((4, 4, 1, 1), np.float32)
    with partly.trace(X, ["c"]) as trace:
        assert trace.activations[0].shape == (4, 4, 6, 6)
        with pytest.raises(
            UnsupportedError, match=r"GridSample 'sampling'.*in reach of 'y' is 'sampled'"
        ) as e:
            trace.vjp({"y": cotangent})
        assert "\n" not in str(e.value)
    with partly.trace(X, ["sampled"]) as trace:
        trace.vjp({"y": cotangent})


# -- the graph ----------------------------------------------------------------------------------


def test_weights_that_nodes_compute() -> None:
    """Weights made by ConstantOfShape and arithmetic are constants like stored ones."""
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])
    stored = numpy_helper.from_array(DENSE, "stored")
    nodes = [
        node("ConstantOfShape", ["shape"], ["half"], value=value),
        node("Constant", [], ["d"], value=stored),
        node("Mul", ["half", "d"], ["weight"]),
        node("Conv", ["x", "w"], ["c"]),
        node("GlobalAveragePool", ["c"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "weight"], ["y"], transB=1),
    ]
    computed = opened(nodes, {"w": CONV, "shape": np.array([5, 4])})
    assert [layer.name for layer in computed.layers()] == ["c", "p", "f", "y"]
    with computed.trace(X, ["c"]) as trace:
        (gradient,) = trace.vjp({"y": np.eye(5, dtype=np.float32)[:4]})
    rows = DENSE[:4] * 0.5 / 36
    np.testing.assert_allclose(gradient[:, :, 0, 0], rows, rtol=0, atol=1e-7)


def test_free_sizes_that_a_rule_must_know_are_taken_from_the_inputs() -> None:
    """A resampling's matrix needs sizes; each size of picture gets a gradient graph of its own."""
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Resize", ["c", "", "scales"], ["up"], mode="linear"),
        node("Mul", ["up", "up"], ["sq"]),
        node("GlobalAveragePool", ["sq"], ["y"]),
    ]
    weights = {"w": CONV, "scales": np.array([1, 1, 2, 2], np.float32)}
    free = opened(nodes, weights, inputs={"x": ("N", 3, "H", "W")})
    for size in (8, 11, 8):
        x = RANDOM.normal(size=(2, 3, size, size + 1)).astype(np.float32)
        with free.trace(x, ["c"]) as trace:
            a, c = trace.activations[0], np.ones((2, 4, 1, 1), np.float32)
            (gradient,) = trace.vjp({"y": c})
            # The score is quadratic in the activation, so one half of <g, a> is its value.
            assert float((gradient * a).sum()) / 2 == pytest.approx(
                float(trace.logits["y"].sum()), rel=1e-5
            )


def test_replay_needs_what_runs_beside_the_layer() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Tanh", ["c"], ["skip"]),
        node("Relu", ["c"], ["a"]),
        node("Add", ["a", "skip"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["y"]),
    ]
    beside = opened(nodes, {"w": CONV}, outputs=("y", "skip"))
    with beside.trace(X, ["a"]) as trace:
        zero = trace.replay("a", np.zeros((4, 4, 8, 8), np.float32))
        np.testing.assert_allclose(
            zero["y"][..., 0, 0], trace.outputs["skip"].mean((2, 3)), rtol=0, atol=1e-6
        )
        np.testing.assert_array_equal(zero["skip"], trace.outputs["skip"])
        with pytest.raises(InputError, match="must have shape"):
            trace.replay("a", np.zeros((4, 4, 8, 7), np.float32))
        with pytest.raises(InputError, match="is not traced"):
            trace.replay("c", trace.activations[0])


def test_a_wrong_rule_is_caught_before_it_is_used() -> None:
    """The gradient of the pooling is made half as large as it is."""
    right = REGISTRY.find("", "GlobalAveragePool", 18)
    assert right is not None
    assert right.rule is not None
    rule = right.rule
    wrong = Entry("GlobalAveragePool", rule=lambda n, g: [answer * 0.5 for answer in rule(n, g)])
    entries = REGISTRY._entries["", "GlobalAveragePool"]
    REGISTRY.add(wrong)
    try:
        with pytest.raises(UnsupportedError, match="differs from finite differences"):
            with opened().trace(X, ["a"]):
                pass
    finally:
        entries.remove(wrong)
    with opened().trace(X, ["a"]):
        pass


QUANTISED = [
    node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
    node("Relu", ["c"], ["a"]),
    node("QuantizeLinear", ["a", "s", "z"], ["q"]),
    node("DequantizeLinear", ["q", "s", "z"], ["b"]),
    node("GlobalAveragePool", ["b"], ["p"]),
    node("QuantizeLinear", ["p", "t", "z"], ["r"]),
    node("DequantizeLinear", ["r", "t", "z"], ["v"]),
    node("Flatten", ["v"], ["f"]),
    node("Gemm", ["f", "d"], ["y"], transB=1),
]
STEPS = {
    "w": CONV, "d": DENSE, "z": np.uint8(0), "s": np.float32(0.1), "t": np.float32(0.02)
}  # fmt: skip


@pytest.mark.parametrize("factor", [0.5, -1.0, 1.5, 0.0])
def test_a_wrong_rule_is_caught_behind_rounding(factor: float) -> None:
    """The score is a staircase there, and rises as the gradient says only over many steps."""
    with opened(QUANTISED, STEPS).trace(X, ["a"]) as trace:
        assert trace.vjp({"y": np.ones((4, 5), np.float32)})[0].any()
    right = REGISTRY.find("", "GlobalAveragePool", 18)
    assert right is not None
    assert right.rule is not None
    rule = right.rule
    wrong = Entry("GlobalAveragePool", rule=lambda n, g: [part * factor for part in rule(n, g)])
    entries = REGISTRY._entries["", "GlobalAveragePool"]
    REGISTRY.add(wrong)
    try:
        with (
            pytest.raises(UnsupportedError, match="differs from finite differences"),
            opened(QUANTISED, STEPS).trace(X, ["a"]),
        ):
            pass
    finally:
        entries.remove(wrong)


@pytest.mark.parametrize("ending", ["", "Softmax"])
def test_logits_are_those_before_the_last_rounding(ending: str) -> None:
    """Else a top score that is the highest integer would have no gradient."""
    nodes = [*QUANTISED[:2], node("GlobalAveragePool", ["a"], ["p"]), node("Flatten", ["p"], ["f"]),
             node("Gemm", ["f", "d"], ["l"], transB=1)]  # fmt: skip
    last = "l"
    for name in ("e", "y") if ending else ("y",):
        if name == "y" and ending:
            nodes.append(node(ending, [last], ["soft"]))
            last = "soft"
        nodes += [
            node("QuantizeLinear", [last, "s", "z"], [f"{name}q"]),
            node("DequantizeLinear", [f"{name}q", "s", "z"], [name]),
        ]
        last = name
    made = opened(nodes, STEPS)
    assert [spec.activation for spec in made.outputs] == ["softmax" if ending else None]
    with made.trace(X, ["a"]) as trace:
        a = trace.activations[0]
        logits = a.mean((2, 3)) @ DENSE.T
        # float32 sums in another order.
        np.testing.assert_allclose(trace.logits["y"], logits, rtol=0, atol=1e-5)
        steps = trace.outputs["y"] / 0.1
        np.testing.assert_allclose(
            steps, np.round(steps), rtol=0, atol=1e-4
        )  # rounded all the same
        cotangent = RANDOM.normal(size=(4, 5)).astype(np.float32)
        np.testing.assert_allclose(
            trace.vjp({"y": cotangent})[0], expected(X, cotangent), rtol=0, atol=1e-6
        )


def test_the_check_runs_once_and_waits_for_finite_values(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    run = check.check_plan

    def counting(*args: Any) -> bool:
        calls.append(run(*args))
        return calls[-1]

    monkeypatch.setattr("gradcam_multi_onnx.model.check_plan", counting)
    one = opened()
    for x in (X * np.nan, X, X):
        with one.trace(x, ["a"]):
            pass
    assert calls == [False, True]


def test_a_closed_trace_says_so() -> None:
    with opened().trace(X, ["a"]) as trace:
        pass
    with pytest.raises(RuntimeError, match="the trace is closed"):
        _ = trace.logits


def test_models_do_not_outlive_their_use() -> None:
    """Many layers of one model do not pile up sessions: only the last few plans are kept."""
    one = opened()
    for name in ("c", "a", "p", "f", "y", "x"):
        with one.trace(X, [name]):
            pass
    gc.collect()
    assert len(one._plans) <= 4
