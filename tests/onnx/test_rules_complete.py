"""Every operator has an answer, and a refusal that comes or goes shows in refusals.txt."""

import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import onnx
from gradcam_multi_onnx.autodiff.registry import FIRST_OPSET
from operator_table import REFUSALS, TABLE, answer, refusals, standard, table, versions

WRITTEN_FOR = 28
"""The newest opset when table and list were written; another onnx knows others."""


def test_every_differentiable_operator_has_an_answer() -> None:
    """In every version from opset 7 on."""
    answers = {
        (op, version): answer(op, max(version, FIRST_OPSET))[0]
        for op, tagged in standard().items() if tagged for version in versions(op)
    }  # fmt: skip
    assert len(answers) > 100
    missing = sorted(key for key, kind in answers.items() if kind == "missing")
    assert not missing
    stopped = {op for (op, _), kind in answers.items() if kind == "no gradient"}
    # Tagged, but their derivatives are zero wherever they exist.
    assert stopped <= {"Ceil", "Floor", "Round", "Sign", "Hardmax", "Unique", "NonZero"}


def test_every_other_standard_operator_has_an_answer_too() -> None:
    kinds = {op: answer(op, onnx.defs.onnx_opset_version())[0] for op in standard()}
    assert [op for op, kind in kinds.items() if kind == "missing"] == []


def test_the_list_of_refused_operators_is_frozen() -> None:
    frozen = REFUSALS.read_text(encoding="utf-8").splitlines()
    assert refusals() == [line for line in frozen if not line.startswith("test_")]


@pytest.mark.skipif(
    onnx.defs.onnx_opset_version() != WRITTEN_FOR, reason="the page lists another onnx's operators"
)
def test_the_page_of_operators_is_current() -> None:
    """Otherwise: python tests/support/operator_table.py."""
    assert TABLE.read_text(encoding="utf-8") == table()
