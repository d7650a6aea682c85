"""Commands on PyTorch models: a function that builds one with its weights, and files of one."""

import json
import sys

import numpy as np
import pytest
import torch
from architectures_torch import small_resnet
from click.testing import CliRunner
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.cli import main

SOURCE = """
import torch
from architectures_torch import seeded, small_resnet

def build():
    return seeded(small_resnet, seed=5).train()

class Sound(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.head = torch.nn.Conv1d(1, 4, 9), torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.features(x).relu().mean(2))
"""


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_line(result):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """The user's folder: a module that builds, weights, a program, nine photographs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets_for_tests.py").write_text(SOURCE)
    torch.save({"state_dict": small_resnet().state_dict()}, tmp_path / "w.pth")
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        pixels = rng.integers(0, 256, (60, 97, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    yield tmp_path
    sys.modules.pop("nets_for_tests", None)


def expected(path, preprocess="imagenet", size=None):
    array, _ = gm.Preprocess.named(preprocess).apply(gm.load_image(path), size=size)
    return gm.explain(small_resnet(), array[None])


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")
def test_a_function_and_its_weights(here):
    result = run("explain", "nets_for_tests:build", "--weights", "w.pth", "photos", "--json")
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert len(records) == 9
    for record in records[:2]:
        wanted = expected(record["image"])  # 224 x 224, as ImageNet's preprocessing has it
        assert record["layer"] == wanted.layer == "layer2.1"
        assert record["backend"] == "torch"
        (found,) = record["explanations"]
        assert found["class"] == wanted.classes[0]
        np.testing.assert_allclose(found["score"], wanted.scores[0], rtol=1e-4)  # of a batch of 8
        assert (here / record["picture"]).stat().st_size > 1000


def test_weights_that_do_not_fit_or_hold_code(here):
    torch.save(small_resnet(), here / "whole.pth")
    arguments = ("explain", "nets_for_tests:build", "photos", "--weights")
    assert "--trust" in one_line(run(*arguments, "whole.pth"))
    assert run(*arguments, "whole.pth", "--trust").exit_code == 0
    torch.save({"fc.weight": torch.zeros(2)}, here / "small.pth")
    assert "missing" in one_line(run(*arguments, "small.pth"))
    assert "it is not there" in one_line(run(*arguments, "no.pth"))


def test_layers_run_on_a_made_up_input():
    result = run("layers", "nets_for_tests:build")
    assert result.exit_code == 0
    assert "*  layer2.1 " in result.stdout
    assert "(N, 64, 28, 28)" in result.stdout
    assert "run on a made-up input (1, 3, 224, 224)" in result.stderr
    result = run("layers", "nets_for_tests:build", "--input-size", "64x96", "--json")
    grids = {layer["name"]: layer["grid"] for layer in json.loads(result.stdout)}
    assert grids["layer2.1"] == [8, 12]
    result = run("layers", "nets_for_tests:Sound", "--input-size", "1x1x100")
    assert "*  relu " in result.stdout
    message = one_line(run("layers", "nets_for_tests:Sound", "--input-size", "64"))
    assert "does not take inputs of (1, 3, 64, 64)" in message


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning", "ignore::FutureWarning")
def test_a_whole_module_in_a_file(here):
    torch.save({"model": small_resnet(), "epoch": 3}, here / "whole.pth")
    message = one_line(run("explain", "whole.pth", "photos/0.png"))
    assert "a file of weights is no model" in message
    assert "gradcam explain mypackage.models:build --weights whole.pth" in message
    assert "a pickled module is opened with trust=True (--trust)" in message
    result = run("explain", "whole.pth", "photos/0.png", "--trust")
    assert result.exit_code == 0, result.output
    assert "layer layer2.1" in result.stdout
    assert "no model" in one_line(run("explain", "w.pth", "photos/0.png", "--trust"))


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("form", ["export", "trace"])
def test_programs_in_files(here, form):
    """The program says its size, 64 x 96, and takes one picture at a time."""
    example, module = torch.zeros(1, 3, 64, 96), small_resnet()
    if form == "export":
        torch.export.save(torch.export.export(module, (example,)), here / "model.pt2")
    else:
        torch.jit.save(torch.jit.trace(module, example), here / "model.pt2")
    assert "--trust" in one_line(run("explain", "model.pt2", "photos"))
    result = run("explain", "model.pt2", "photos", "--trust", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)[3]
    size = (64, 96) if form == "export" else None
    wanted = expected(record["image"], size=size)
    np.testing.assert_allclose(record["explanations"][0]["score"], wanted.scores[0], rtol=1e-4)
    result = run("layers", "model.pt2", "--trust")
    assert "*  layer2.1" in result.stdout
    assert ("8x12" if form == "export" else "28x28") in result.stdout


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")
def test_two_states_of_one_network_are_compared(here):
    rng = np.random.default_rng(1)
    changed = small_resnet()
    with torch.no_grad():  # the last block's weights in another order
        weight = changed.get_parameter("layer2.1.conv2.weight")
        weight.copy_(weight[torch.from_numpy(rng.permutation(len(weight)))])
    torch.save(changed.state_dict(), here / "new.pth")
    command = ("compare", "nets_for_tests:build", "nets_for_tests:build", "photos", "--json")
    same = run(*command, "--weights", "w.pth")
    assert same.exit_code == 0, same.output
    result = run(*command, "--weights", "w.pth", "--weights", "new.pth")
    assert result.exit_code == 1, result.output
    report = json.loads(result.stdout)
    assert report["reference"]["name"] == "nets_for_tests:build w.pth"
    assert [other["name"] for other in report["others"]] == ["nets_for_tests:build new.pth"]
    few = ("--weights", "w.pth", "--weights", "w.pth", "--weights", "w.pth")
    assert "3 of weights were given for 2 models" in one_line(run(*command, *few))


def test_doctor_looks_over_what_a_function_builds(here):
    result = run("doctor", "nets_for_tests:build", "--weights", "w.pth")
    assert result.exit_code == 0, result.output
    assert "layer2.1" in result.stdout
    assert "can be explained" in result.stdout
    assert "--trust" in one_line(run("doctor", "nets_for_tests:build", "--weights", _pickle(here)))


def _pickle(folder):
    torch.save(small_resnet(), folder / "whole.pth")
    return folder / "whole.pth"
