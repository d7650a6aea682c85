"""The worked examples of docs/ run, and print what stands below them."""

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RUN = ["targets.md", "guided.md"]


def steps(text):
    """Each block of Python with the text below it, or None."""
    fences = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    return [
        (code, fences[i + 1][1] if i + 1 < len(fences) and fences[i + 1][0] == "text" else None)
        for i, (language, code) in enumerate(fences) if language == "python"
    ]  # fmt: skip


@pytest.mark.parametrize("name", RUN)
def test_examples_print_what_is_said(name):
    names = {}
    found = steps((DOCS / name).read_text(encoding="utf-8"))
    assert found
    for code, said in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, name, "exec"), names)
        assert printed.getvalue() == (said or "")
