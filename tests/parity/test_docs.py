"""The worked examples of docs/ run, and print what stands below them."""

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RUN = ["targets.md", "guided.md"]
# Pages that train a network, whose figures depend on the order in which a processor adds.
TRAINED = ["segmentation.md", "detection.md", "embedding.md", "captioning.md"]
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+")
# Shares, cosines and probabilities, all in [0, 1]. With two threads instead of one the figures were
# up to 0.14 away from those printed; what the pages compare lies farther apart.
APART = 0.2


def steps(text):
    """Each block of Python with the text below it, or None."""
    fences = re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)
    return [
        (code, fences[i + 1][1] if i + 1 < len(fences) and fences[i + 1][0] == "text" else None)
        for i, (language, code) in enumerate(fences) if language == "python"
    ]  # fmt: skip


def printed_and_said(name):
    """What each block of a page prints, run in order, and the text below it."""
    names = {}
    found = steps((DOCS / name).read_text(encoding="utf-8"))
    assert found
    for code, said in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, name, "exec"), names)
        yield printed.getvalue(), said or ""


@pytest.mark.parametrize("name", RUN)
def test_examples_print_what_is_said(name):
    for printed, said in printed_and_said(name):
        assert printed == said


# An untrained network may have no evidence for a class, and says so.
@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_trackers_page(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    monkeypatch.chdir(tmp_path)  # for the logs
    for printed, said in printed_and_said("trackers.md"):
        assert printed == said


@pytest.mark.parametrize("name", TRAINED)
# Layers that a detection does not pass have no map, and some maps are negative: the pages say so.
@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning")
def test_trained_examples_print_about_what_is_said(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for the files that they write
    for printed, said in printed_and_said(name):
        assert NUMBER.sub("#", printed) == NUMBER.sub("#", said)
        figures, expected = (list(map(float, NUMBER.findall(t))) for t in (printed, said))
        assert figures == pytest.approx(expected, abs=APART)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", (DOCS / name).read_text(), re.DOTALL):
        assert (tmp_path / picture).exists()
        assert (DOCS / picture).exists()
