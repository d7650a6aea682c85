"""Every rule against torch.autograd of a hand-written twin of the operator."""

import numpy as np
import pytest
import rule_cases
import rule_cases_fused
import rule_cases_more
import torch
from gradcam_multi_onnx.autodiff.rules import REGISTRY
from rule_cases import X
from rule_check import Case, Runner, case, runner
from torch_twins_of_rules import TWINS, WITHOUT, by_torch

FLOAT32_CONSTANTS = {"FastGelu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "QuickGelu"}
"""In ONNX Runtime their constants and defaults are float32 whatever they are given."""

CASES = [*rule_cases.CASES, *rule_cases_more.CASES, *rule_cases_fused.CASES]


def close(found: np.ndarray, wanted: torch.Tensor, tolerance: float) -> None:
    values = wanted.detach().numpy()
    assert found.shape == values.shape
    scale = max(np.abs(values).max(initial=0), 1)
    np.testing.assert_allclose(found, values, rtol=0, atol=tolerance * scale)


def compare(case: Case, made: Runner) -> None:
    """Forward first: only of the same function can the gradient be the same."""
    # float64: sums of some 100 terms, 3e-15 measured. float32: the same in its rounding, and cubic
    # weights from coordinates in float32, 1e-6 measured; torch's side is float64 in both.
    tolerance = 1e-12 if made.dtype == np.float64 else 5e-6
    if case.op in FLOAT32_CONSTANTS:
        tolerance = max(tolerance, 2e-7)
    found = made.run(made.feeds, made.names)
    variable, results = by_torch(case, made.feeds)
    wanted = [results[place] for place in case.used]
    for ours, theirs in zip(found, wanted, strict=True):
        close(ours, theirs, tolerance)
    random = np.random.default_rng(1)
    cotangents = [random.standard_normal(a.shape).astype(made.dtype) for a in found]
    given = [torch.tensor(c, dtype=torch.float64) for c in cotangents]
    theirs = torch.autograd.grad(wanted, list(variable.values()), given, materialize_grads=True)
    ours = made.gradients(cotangents)
    for (name, tensor), gradient in zip(variable.items(), theirs, strict=True):
        close(ours.get(name, np.zeros(tensor.shape)), gradient, tolerance)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rule_equals_autograd(case: Case) -> None:
    compare(case, runner(case))


def test_every_ruled_operator_has_a_twin_or_a_reason() -> None:
    ruled = {(e.domain, e.op) for e in REGISTRY.entries() if e.kind in ("rule", "lowered")}
    assert not set(TWINS) & set(WITHOUT)
    assert set(TWINS) | set(WITHOUT) == ruled
    assert {(case.domain, case.op) for case in CASES} == set(TWINS)


FLAT = np.array([[0.0, -0.0, 1.0, 0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 0.5, -0.5, 2.5, -2.5]])
TIES = np.array([[1.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-1.0, 3.0, 0.0, 3.0]])
GRID = np.repeat(np.repeat(np.arange(9.0).reshape(1, 1, 3, 3) % 4, 2, 2), 2, 3)
KINKS = [
    *(case(op, FLAT) for op in (
        "Abs", "Relu", "LeakyRelu", "Selu", "ThresholdedRelu", "HardSigmoid", "HardSwish",
        "Softsign",
    )),
    case("Elu", FLAT, alpha=0.7), case("Celu", FLAT, alpha=0.6),
    case("Shrink", FLAT, lambd=0.5, single=True), case("PRelu", FLAT, np.array(0.3)),
    case("Clip", FLAT, np.array(-10.0), np.array(10.0)),
    case("Max", FLAT, np.zeros(1), wrt=(0, 1)), case("Min", FLAT, np.ones(1), wrt=(0, 1)),
    case("Sub", FLAT, FLAT), case("Pow", FLAT, np.array(2.0)), case("Pow", FLAT, np.array(0.0)),
    *(case(op, TIES, opset=11, axes=[1]) for op in (
        "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceSumSquare",
        "ReduceLogSumExp",
    )),
    case("MaxPool", GRID, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", GRID, kernel_shape=[2, 2]), case("GlobalMaxPool", GRID),
    case("LpPool", GRID * 0, kernel_shape=[2, 2]), case("GlobalLpPool", GRID * 0),
    case("ScatterElements", X, np.zeros((1, 1, 4), np.int64), X[:1, :1] * 0, axis=1,
         reduction="mul"),
    case("Softmax", np.array([[0.0, -np.inf, 1.0, 1.0]])),
    case("LogSoftmax", np.array([[700.0, -700.0, 700.0]])),
    case("LpNormalization", TIES + (TIES.sum(1, keepdims=True) == 0), p=1, axis=1),
]  # fmt: skip
"""At zeros, ties and bounds, where the derivative is a convention: torch's."""


@pytest.mark.parametrize("case", KINKS, ids=str)
def test_conventions_at_kinks_are_those_of_torch(case: Case) -> None:
    compare(case, runner(case))


def test_bounds_are_those_of_hardtanh() -> None:
    """ReLU6 and its kind: closed at both ends, where torch.clamp lets the gradient through."""
    x = np.array([[-1.0, 0.0, 3.0, 6.0, 7.0]])
    made = Runner(case("Clip", x, np.array(0.0), np.array(6.0)), np.float32, free=False)
    tensor = torch.tensor(x, requires_grad=True)
    (wanted,) = torch.autograd.grad(torch.nn.functional.hardtanh(tensor, 0.0, 6.0).sum(), tensor)
    assert made.gradients([np.ones_like(x)])["in0"].tolist() == wanted.tolist()
