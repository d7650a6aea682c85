"""``gradcam audit``: what is printed, and the exit codes."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
from click.testing import CliRunner

from gradcam_multi.audit.result import open_audit
from gradcam_multi.cli import main
from gradcam_multi.demo import CLASSES


def run(*arguments):
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


def one_line(result, code=2):
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_an_audit_is_printed_resumed_and_summed_up_again(scenes, tmp_path):
    out = tmp_path / "o"
    asked = (
        scenes.shortcut, scenes.table, "-o", out, "--preprocess", "unit",
        "--labels", scenes.folder / "labels.txt", "--part", 64,
    )  # fmt: skip
    first = run(*asked)
    assert first.exit_code == 0, first.output
    assert "160 of 160 pictures, 0 failed; gradcam of shortcut.onnx" in first.stdout
    assert "the attention sits in a corner" in first.stdout
    assert all(name in first.stdout for name in CLASSES)
    again = run(*asked, "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout) == json.loads((out / "summary.json").read_text())
    (out / "part-000001.parquet").unlink()
    (out / "summary.json").unlink()
    unfinished = run("--summary", "-o", out)
    assert unfinished.exit_code == 0
    assert "96 of 160 pictures" in unfinished.stdout
    assert json.loads((out / "summary.json").read_text())["done"] == 96


def test_the_readmes_command_runs(scenes, tmp_path, monkeypatch):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in readme.splitlines() if line.startswith("gradcam audit ")]
    shutil.copy(scenes.sound, tmp_path / "model.onnx")
    shutil.copy(scenes.folder / "labels.txt", tmp_path / "classes.txt")
    (tmp_path / "photos").mkdir()
    shutil.copy(scenes.folder / scenes.names[0], tmp_path / "photos" / "one.png")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    assert open_audit("audited").table(["path"]).to_pylist() == [{"path": "one.png"}]


def test_options_reach_the_rows(scenes, tmp_path):
    result = run(
        scenes.sound, scenes.folder / "pictures" / "00?.png", "-o", tmp_path / "o",
        "--preprocess", "unit", "--target", 2, "--method", "layercam", "--layer", "relu4",
        "--folder-labels", "--batch", 3, "--top", 2,
    )  # fmt: skip
    # The folder is called "pictures", which is no class.
    assert "labels ('pictures')" in one_line(result)
    result = run(
        scenes.sound, scenes.folder / "pictures" / "00?.png", "-o", tmp_path / "o",
        "--preprocess", "unit", "--target", 2, "--method", "layercam", "--layer", "relu4",
        "--batch", 3, "--top", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    table = open_audit(tmp_path / "o").table()
    assert table.num_rows == 10
    assert set(table["target"].to_pylist()) == {2}
    assert set(table["method"].to_pylist()) == {"layercam"}
    assert set(table["layer"].to_pylist()) == {"relu4"}
    assert table.schema.field("top_maps").type.shape == [2, 12, 12]


def test_exit_codes(scenes, tmp_path):
    table = scenes.write("few.csv", range(4), {2: "absent.png"})
    some = run(scenes.sound, table, "-o", tmp_path / "o", "--preprocess", "unit",
               "--labels", scenes.folder / "labels.txt")  # fmt: skip
    assert "absent.png': the file does not exist" in one_line(some, 1)
    assert "3 labels" not in some.stdout
    (tmp_path / "all.csv").write_text("image\nabsent.png\n")
    assert "absent.png" in one_line(run(scenes.sound, tmp_path / "all.csv", "-o", tmp_path / "p"))
    (tmp_path / "empty").mkdir()
    asked = scenes.sound, tmp_path / "empty", "-o", tmp_path / "q"
    assert "no picture in" in one_line(run(*asked))
    assert not (tmp_path / "q").exists()
    assert "no audit in" in one_line(run("--summary", "-o", tmp_path / "q"))
    assert "give MODEL and SOURCE" in run("-o", tmp_path / "q").stderr
