"""The onnx package's node tests as gradient checks."""

import re
from collections import Counter

import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import onnx
from node_corpus import Verdict, cases, judge
from operator_table import REFUSALS

SCALE = "straight through takes the scale as given: it moves with the extremes only"
KINKS = {
    "test_acosh_example": "at 1, where the slope is infinite",
    "test_dynamicquantizelinear": SCALE,
    "test_dynamicquantizelinear_max_adjusted": SCALE,
    "test_dynamicquantizelinear_min_adjusted": SCALE,
    "test_elu_example": "at the kink in 0",
    "test_elu_example_expanded_ver18": "at the kink in 0",
    "test_floor_example": "at the jump in 2",
    "test_hardmax_one_hot": "at a tie, where it jumps",
    "test_l2normalization_axis_0": "of zeros, where it jumps",
    "test_leakyrelu_example": "at the kink in 0",
    "test_leakyrelu_example_expanded": "at the kink in 0",
    "test_maxpool_3d_dilations": "at ties: every row holds the same values",
    "test_maxpool_3d_dilations_use_ref_impl": "at ties: every row holds the same values",
    "test_pow": "0 to a power; differences go into negative bases, where it is not defined",
    "test_reduce_min_default_axes_keepdims_example": "at a tie of the smallest",
    "test_round": "at the jumps in halves",
    "test_selu_example": "at the kink in 0",
    "test_selu_example_expanded_ver18": "at the kink in 0",
    "test_sign": "at the jump in 0",
    "test_tan": "beside a pole, nearer than the steps",
    "test_thresholdedrelu_example": "at the jump in alpha",
    "test_thresholdedrelu_example_expanded_ver18": "at the jump in alpha",
}
"""Cases whose points have no derivative: what differences say there depends on the direction."""

WRITTEN_FOR = "1.23"
"""The onnx release whose cases are listed in refusals.txt."""


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    return {case.name: judge(case) for case in cases()}


def reason(verdict: Verdict) -> str:
    """The operator and why, without the names of values."""
    found = re.search(r"cannot differentiate (\S+) .*? opset \d+\): ([^;]*)", verdict.why)
    text = f"{found[1]}: {found[2]}" if found else verdict.why
    return re.sub(r"'[^']*'", "a value", text)


def test_none_fails(verdicts: dict[str, Verdict]) -> None:
    failed = {name: v.why for name, v in verdicts.items() if v.kind == "failed"}
    assert {name: why for name, why in failed.items() if name not in KINKS} == {}


def test_what_is_called_a_kink_is_one(verdicts: dict[str, Verdict]) -> None:
    passed = [name for name in KINKS if name in verdicts and verdicts[name].kind == "passed"]
    assert passed == []


def test_most_pass(verdicts: dict[str, Verdict]) -> None:
    counts = Counter(v.kind for v in verdicts.values())
    print(dict(counts))
    assert counts["passed"] >= 650


@pytest.mark.skipif(not onnx.__version__.startswith(WRITTEN_FOR), reason="another onnx's cases")
def test_refusals_are_frozen(verdicts: dict[str, Verdict]) -> None:
    """A case that is refused anew, or no longer, or for another reason, shows here."""
    refused = sorted(f"{n}: {reason(v)}" for n, v in verdicts.items() if v.kind == "refused")
    frozen = REFUSALS.read_text(encoding="utf-8").splitlines()
    assert refused == [line for line in frozen if line.startswith("test_")]
