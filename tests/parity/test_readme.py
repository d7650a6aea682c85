"""The README's code runs as it stands there."""

import configparser
import re
import shlex
import sys
from pathlib import Path

import keras
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from gradcam_multi.cli import main
from gradcam_multi.demo import load_examples, load_network
from gradcam_multi.plugins import installed

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files that the README speaks of."""
    network = load_network("sound")
    scene = load_examples()[0]
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.jpg"):
        Image.fromarray(scene.image).save(tmp_path / name)
    for name in ("masks/one.png", "masks/two.png"):
        Image.fromarray(scene.mask.astype("uint8") * 255).save(tmp_path / name)
    (tmp_path / "model.onnx").write_bytes(installed().build(network, "onnx"))
    model = installed().build(network, "tensorflow")
    model.save(tmp_path / "model.keras")
    _write_torch(tmp_path, installed().build(network, "torch"))
    (tmp_path / "classes.txt").write_text("\n".join(network.classes))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    keras.backend.clear_session()
    return tmp_path


def _write_torch(folder, module):
    """A package with a function that builds the demo's network, its weights, and a program."""
    (folder / "mypackage").mkdir()
    (folder / "mypackage" / "models.py").write_text(
        "from gradcam_multi.demo import load_network\n"
        "from gradcam_multi.plugins import installed\n"
        "def build():\n"
        "    return installed().build(load_network('shortcut'), 'torch')\n"
    )
    torch.save(module.state_dict(), folder / "weights.pth")
    inputs = (torch.zeros(2, 3, 224, 224),)
    free = ({0: torch.export.Dim("batch")},)
    torch.export.save(
        torch.export.export(module, inputs, dynamic_shapes=free), folder / "program.pt2"
    )


def test_python_blocks_run(folder):
    code = blocks("python")
    assert len(code) == 6
    names = {"module": installed().build(load_network("sound"), "torch")}
    for block in code:
        exec(compile(block, "README.md", "exec"), names)
    assert (folder / "where.png").exists()
    assert names["explanation"].method == "layercam"


def test_commands_run(folder):
    commands = [line for block in blocks("console") for line in block.splitlines()]
    # `gradcam audit` needs pyarrow, and is run by tests/audit.
    explained = [line for line in commands if line.startswith("gradcam ") and " audit " not in line]
    assert len(explained) == 10
    for line in explained:
        line = line.replace("block4_conv3", "conv4").replace("tabby", "0")
        words = [
            str(path)
            for word in shlex.split(line)[1:]
            for path in (sorted(folder.glob(word)) if "*" in word else [word])
        ]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, f"{line}\n{result.output}"


def test_the_two_commands_are_those_of_ci():
    assert 'python -m pip install ".[onnx]" && gradcam demo' in README
    assert "python -m pip install tox && tox" in README
    ci = (Path(__file__).parents[2] / ".ci" / "run").read_text()
    assert "python -m pip install tox\ntox " in ci


def test_ci_looks_at_every_environment_that_runs_tests():
    root = Path(__file__).parents[2]
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(root / "tox.ini", encoding="utf-8")
    listed = tox["tox"]["env_list"].replace(",", " ").split()
    (looked_at,) = re.findall(r"for environment in (.*); do", (root / ".ci" / "run").read_text())
    assert sorted([*looked_at.split(), "lint", "type"]) == sorted(listed)
