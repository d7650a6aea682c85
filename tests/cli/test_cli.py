"""The command line where no framework is needed: help, start-up, and a user's errors."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from gradcam_multi.cam import METHODS
from gradcam_multi.cli import main
from gradcam_multi.cli.main import COMMANDS


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_line(result):
    """The error as a user sees it: one line on stderr, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("gradcam: ")
    return lines[0]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (32, 24), (200, 10, 10)).save(path)
    return path


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"  {name}  " in result.output
        assert run(name, "--help").exit_code == 0


def test_methods_are_listed_with_what_they_need_and_cost():
    lines = run("methods").output.splitlines()
    assert len(lines) == 1 + len(METHODS)
    assert re.split(r"  +", lines[0]) == ["method", "needs", "cost", "blind to", "paper"]
    rows = {line.split()[0]: re.split(r"  +", line) for line in lines[1:]}
    assert rows["gradcam"][1:4] == ["gradients", "1", "-"]
    assert rows["eigencam"][1] == "-"
    assert rows["scorecam"] == [
        "scorecam", "inputs", "1 + C", "class", "Wang 2020, arXiv:1910.01279",
    ]  # fmt: skip
    assert rows["eigencam"][3] == "class"
    listed = json.loads(run("methods", "--json").output)
    assert [entry["name"] for entry in listed] == list(METHODS)
    assert listed[0]["formula"] == "r(sum_k mean(g_k) A_k)"
    assert listed[0]["blind_to"] == []
    assert set(listed[0]["sanity"]) == {"weights", "classes", "network"}


def test_an_unknown_method_is_said_before_a_model_is_opened(photo):
    message = one_line(run("explain", "nothing.onnx", photo, "--method", "score-cam"))
    assert "no method is called 'score-cam'" in message
    assert "did you mean 'scorecam'" in message


def test_module_and_version():
    command = [sys.executable, "-m", "gradcam_multi", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("gradcam, version ")


def test_an_empty_folder(tmp_path):
    message = one_line(run("explain", "model.onnx", tmp_path))
    assert "no picture" in message
    assert tmp_path.name in message


def test_a_missing_picture(tmp_path):
    assert "nothing.png" in one_line(run("explain", "model.onnx", tmp_path / "nothing.png"))


def test_an_unknown_preprocessing(photo):
    message = one_line(run("explain", "model.onnx", photo, "--preprocess", "imagnet"))
    assert "imagnet" in message
    assert "did you mean 'imagenet'" in message


def test_an_unknown_method(photo):
    message = one_line(run("explain", "model.onnx", photo, "--method", "gradcam+"))
    assert "did you mean 'gradcam++'" in message


def test_a_grid_that_is_none(photo):
    result = run("explain", "model.onnx", photo, "--grid", "14x")
    assert result.exit_code == 2
    assert "'14x' is no grid: give it as ROWSxCOLUMNS" in result.stderr


def test_labels_that_are_none(photo, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("a,b\n1,2\n")
    message = one_line(run("explain", "model.onnx", photo, "--labels", labels))
    assert "column 'name'" in message


def test_a_model_that_nobody_knows(photo, tmp_path):
    model = tmp_path / "model.xyz"
    model.write_bytes(b"?")
    message = one_line(run("explain", model, photo))
    assert "cannot open" in message
    assert ".onnx" in one_line(run("layers", model)) or "ONNX" in message


def test_target_and_top_exclude_each_other(photo):
    result = run("explain", "model.onnx", photo, "--target", "1", "--top", "2")
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


@pytest.mark.parametrize(
    ("module", "file", "extra"),
    [("onnx", "m.onnx", "onnx"), ("tensorflow", "m.keras", "tensorflow")],
)
def test_a_missing_extra_is_named(module, file, extra, photo, tmp_path):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed; tox -e core runs without it")
    (tmp_path / file).write_bytes(b"content")
    message = one_line(run("explain", tmp_path / file, photo))
    assert f"gradcam-multi[{extra}]" in message or f"gradcam-multi[{extra}]" in message


def test_the_demo_says_what_it_needs(tmp_path):
    if any(map(importlib.util.find_spec, ("onnx", "torch", "tensorflow"))):
        pytest.skip("a framework is installed; tox -e core runs without one")
    message = one_line(run("demo", "--output", tmp_path))
    assert 'pip install "gradcam-multi[onnx]"' in message
    for name in ("onnx", "torch", "tensorflow"):
        assert f"[{name}]" in one_line(run("demo", "--output", tmp_path, "--backend", name))


def test_an_output_folder_that_cannot_be(photo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = one_line(run("demo", "--output", tmp_path / "file" / "below"))
    assert "give another --output" in message


@pytest.mark.skipif(os.name == "nt", reason="pipes differ")
def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m gradcam_multi explain --help | head -1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in result.stderr


def test_command_modules_are_all_listed():
    package = Path(importlib.util.find_spec("gradcam_multi.cli").origin).parent
    shared = {"__init__", "main", "models", "scores"}
    assert {path.stem for path in package.glob("*.py")} - shared == set(COMMANDS)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--versus", "1", "--score", "probability"], "--versus and --score probability exclude"),
        (["--score", "positive", "--target", "1"], "--score positive is about no class"),
        (["--top", "2", "--score", "region"], "--top ranks logits"),
        (["--top", "2", "--versus", "1"], "--top ranks logits"),
        (["--score", "best"], "'best' is not one of 'logit'"),
    ],
)
def test_scores_that_exclude_each_other(photo, options, match):
    result = run("explain", "model.onnx", photo, *options)
    assert result.exit_code == 2
    assert match in result.stderr


def test_what_the_command_line_says_of_the_score():
    import gradcam_multi as gm
    from gradcam_multi.cli.scores import SCORES, asked_target

    assert asked_target("cat", "logit", "dog") == gm.ClassDifference("cat", "dog")
    assert asked_target(3, "log-probability", None) == gm.LogProbability(3)
    assert asked_target(None, "negative", None) == gm.Binary(positive=False)
    assert asked_target(None, "down", None) == gm.Regression(-1)
    assert asked_target(2, "region", None).index == 2
    assert asked_target(None, "logit", None) == gm.ClassScore()
    assert len(SCORES) == 8
