"""The table of operators in docs/onnx_operators.md and the list of refusals, from the registry.

python tests/support/operator_table.py   # writes both files anew
"""

from collections.abc import Iterator
from pathlib import Path

import onnx
from gradcam_multi_onnx.autodiff.lowering import has_function
from gradcam_multi_onnx.autodiff.registry import FIRST_OPSET, Entry
from gradcam_multi_onnx.autodiff.rules import REGISTRY

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "onnx_operators.md"
REFUSALS = ROOT / "tests" / "onnx" / "refusals.txt"
_Differentiable = onnx.defs.OpSchema.DifferentiationCategory.Differentiable

INTRODUCTION = """# Operators that can be differentiated

Between the layer and the score, every operator of an ONNX model has one of these answers:

- **rule**: its gradient is written in standard operators.
- **lowered**: it is taken apart into operators that have rules.
- **function**: it is taken apart as ONNX itself defines it by other operators.
- **no gradient**: its results do not change with small changes of its inputs; gradients stop there.
- **refused**: an error names the operator and the reason.

Versions are those since opset 7 in which ONNX changed the operator; every one of them is read as
its own opset has it. Attributes that are not listed are refused.

| operator | versions | answer | attributes, or the reason |
|---|---|---|---|
"""


def versions(op: str) -> list[int]:
    """Return the versions of a standard operator that an opset from 7 on can mean."""
    known = [
        s.since_version for s in onnx.defs.get_all_schemas_with_history()
        if s.name == op and not s.domain and not s.deprecated
    ]  # fmt: skip
    older = [v for v in known if v <= FIRST_OPSET]
    return sorted({v for v in known if v > FIRST_OPSET} | set(older and [max(older)]))


def standard() -> dict[str, bool]:
    """Return the standard operators that are not deprecated, and whether they are tagged.

    Tagged as differentiable is an operator with an input that the schema calls Differentiable.
    """
    return {
        s.name: any(i.differentiation_category == _Differentiable for i in s.inputs)
        for s in onnx.defs.get_all_schemas() if not s.domain and not s.deprecated
    }  # fmt: skip


def answer(op: str, opset: int) -> tuple[str, str]:
    """Return the kind of answer for a standard operator, and what there is to say."""
    entry = REGISTRY.find("", op, opset)
    if entry is not None:
        return entry.kind, said(entry)
    if has_function(onnx.helper.make_node(op, [], []), opset):
        return "function", ""
    return "missing", ""


def said(entry: Entry) -> str:
    """Return the attributes that an entry understands, or its reason."""
    return entry.reason or ", ".join(sorted(entry.attributes))


def rows() -> Iterator[str]:
    """Yield the table's rows: standard operators, then the other domains."""
    for op in sorted(standard()):
        known = versions(op)
        if known:
            kind, what = answer(op, onnx.defs.onnx_opset_version())
            yield f"| {op} | {', '.join(map(str, known))} | {kind} | {what} |"
    for entry in REGISTRY.entries():
        if entry.domain:
            yield f"| {entry.domain}.{entry.op} | 1 | {entry.kind} | {said(entry)} |"
        elif entry.op not in standard():
            yield f"| {entry.op} | before | {entry.kind} | {said(entry)} |"


def refusals() -> list[str]:
    """Return every refused operator with its reason."""
    return [
        f"{entry.domain or 'ai.onnx'}.{entry.op}: {entry.reason}"
        for entry in REGISTRY.entries() if entry.kind == "refused"
    ]  # fmt: skip


def table() -> str:
    """Return the page."""
    return INTRODUCTION + "\n".join(rows()) + "\n"


if __name__ == "__main__":
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table(), encoding="utf-8")
    old = REFUSALS.read_text(encoding="utf-8") if REFUSALS.exists() else ""
    cases = [line for line in old.splitlines() if line.startswith("test_")]
    REFUSALS.write_text("\n".join([*refusals(), *cases]) + "\n", encoding="utf-8")
