"""Every rule against central differences of the operator itself, as ONNX Runtime computes it."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import rule_cases
import rule_cases_fused
import rule_cases_more
from gradcam_multi_onnx.autodiff.rules import REGISTRY
from rule_check import Case, Runner, case, check_case

CASES = [*rule_cases.CASES, *rule_cases_more.CASES, *rule_cases_fused.CASES]

NO_KERNEL = {
    ("", "CumProd"), ("com.microsoft", "BiasAdd"), ("com.microsoft", "GroupNorm"),
    ("com.microsoft", "NhwcConv"), ("com.microsoft", "NhwcFusedConv"),
}  # fmt: skip
"""ONNX Runtime does not run them on a CPU: test_rules_lowered.py has their cases."""


@pytest.mark.parametrize(
    ("case", "free"),
    [(case, free) for case in CASES for free in ((False,) if case.fixed else (False, True))],
    ids=lambda value: str(value) if isinstance(value, Case) else "free" if value else "static",
)
def test_rule_equals_central_differences(case: Case, free: bool) -> None:
    check_case(case, free=free)


def test_every_rule_has_a_case() -> None:
    """Those of quantised operators are in a module of their own."""
    words = ("QLinear", "Integer", "uantize", "QGemm")
    ruled = {(e.domain, e.op) for e in REGISTRY.entries() if e.kind in ("rule", "lowered")}
    ruled = {(domain, op) for domain, op in ruled if not any(word in op for word in words)}
    assert ruled == {(case.domain, case.op) for case in CASES} | NO_KERNEL


def test_no_two_kinds_of_entry_for_one_operator() -> None:
    kinds: dict[tuple[str, str], set[str]] = {}
    for entry in REGISTRY.entries():
        kinds.setdefault((entry.domain, entry.op), set()).add(entry.kind)
    assert all(len(found) == 1 for found in kinds.values()), kinds


def value_at(op: str, x: list[float], **attributes: Any) -> np.ndarray:
    made = Runner(case(op, np.array([x]), **attributes), np.float32, free=False)
    outputs = made.run(made.feeds, made.names)
    return made.gradients([np.ones_like(a) for a in outputs])["in0"][0]


def test_conventions_at_kinks() -> None:
    assert value_at("Relu", [0.0, -0.0]).tolist() == [0, 0]
    assert value_at("Abs", [0.0]).tolist() == [0]
    relu6 = Case("Clip", (np.array([[0.0, 6.0, 3.0]]), np.array(0.0), np.array(6.0)))
    made = Runner(relu6, np.float32, free=False)
    assert made.gradients([np.ones((1, 3))])["in0"].tolist() == [[0, 0, 1]]


def test_max_pooling_gives_ties_to_the_first() -> None:
    made = Runner(
        case("MaxPool", np.ones((1, 1, 2, 2)), kernel_shape=[2, 2]), np.float32, free=False
    )
    assert made.gradients([np.ones((1, 1, 1, 1))])["in0"].tolist() == [[[[1, 0], [0, 0]]]]


def test_elementwise_extrema_split_ties() -> None:
    made = Runner(case("Max", np.ones((1, 2)), np.ones(2), wrt=(0, 1)), np.float32, free=False)
    assert made.gradients([np.ones((1, 2))])["in0"].tolist() == [[0.5, 0.5]]
    made = Runner(case("ReduceMax", np.ones((1, 4)), opset=11), np.float32, free=False)
    assert made.gradients([np.ones((1, 1))])["in0"].tolist() == [[0.25] * 4]


def test_zero_times_infinity_is_no_nan() -> None:
    assert value_at("ReduceL2", [0.0, 0.0], opset=11).tolist() == [0, 0]


def test_a_row_that_is_masked_entirely_gets_nothing() -> None:
    """Its softmax is 0/0; exporters put a Where behind it, and NaN would pass through that."""
    x = np.array([[-np.inf] * 3, [0.0, -np.inf, 1.0]])
    made = Runner(case("Softmax", x), np.float32, free=False)
    cotangent = np.array([[0.0] * 3, [1.0, 2.0, 3.0]])
    y = np.exp(x[1]) / np.exp(x[1]).sum()
    expected = y * (cotangent[1] - (y * cotangent[1]).sum())
    found = made.gradients([cotangent])["in0"]
    assert not found[0].any()
    np.testing.assert_allclose(found[1], expected, rtol=0, atol=1e-6)  # float32
