"""Targets on the command line and on ONNX models with outputs of several kinds."""

import json

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import onnx
from click.testing import CliRunner
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.cli import main
from gradcam_multi.demo import load_examples, load_network
from gradcam_multi.plugins import installed

COLOURS = """
    <ir_version: 8, opset_import: ["": 17]>
    colours (float[N, 3, 24, 24] image) => (float[N, 3] means, float[N, 3, 24, 24] masks, float[N, 1] red)
    <float[3, 3, 1, 1] colour = {1, -0.5, -0.5, -0.5, 1, -0.5, -0.5, -0.5, 1}, float[3, 1] first = {1, 0, 0}>
    {
        map = Conv(image, colour)
        seen = Relu(map)
        masks = Conv(seen, colour)
        pooled = GlobalAveragePool(seen)
        means = Flatten(pooled)
        red = MatMul(means, first)
    }
"""  # noqa: E501, a graph


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_line(result):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    (folder / "sound.onnx").write_bytes(installed().build(load_network("sound"), "onnx"))
    (folder / "labels.txt").write_text("\n".join(load_network("sound").classes))
    onnx.save(onnx.parser.parse_model(COLOURS), folder / "colours.onnx")
    (folder / "colours.txt").write_text("red\ngreen\nblue")
    Image.fromarray(load_examples()[0].image).save(folder / "scene.png")
    picture = np.zeros((24, 24, 3), np.uint8)
    picture[2:8, 2:8, 0] = picture[14:20, 14:20, 2] = 255
    Image.fromarray(picture).save(folder / "colours.png")
    return folder


def explained(folder, stem, picture, *more):
    result = run(
        "explain", folder / f"{stem}.onnx", folder / picture, "--preprocess", "unit",
        "--output", folder / "out", "--json", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)[0]["explanations"][0]


def test_why_this_class_and_not_that(folder):
    labels = ("--labels", folder / "labels.txt")
    classes = load_network("sound").classes
    top = explained(folder, "sound", "scene.png", *labels)
    found = explained(folder, "sound", "scene.png", *labels, "--versus", classes[5])
    assert found["target"] == "ClassDifference"
    assert found["label"] == f"{top['label']}, not {classes[5]}"
    other = explained(folder, "sound", "scene.png", *labels, "--target", "5")
    # Two float32 scores, subtracted in float64.
    assert found["score"] == pytest.approx(top["score"] - other["score"], rel=1e-5)
    sure = explained(folder, "sound", "scene.png", *labels, "--score", "log-probability")
    assert sure["score"] == pytest.approx(np.log(top["probability"]), abs=1e-6)


def test_regions_and_outputs_by_name(folder):
    asked = ("--labels", folder / "colours.txt", "--model-output", "masks", "--score", "region")
    red = explained(folder, "colours", "colours.png", *asked, "--target", "red")
    assert red["label"].startswith("red in ")
    row, column = red["peak"]
    assert 2 <= row < 8
    assert 2 <= column < 8
    blue = explained(folder, "colours", "colours.png", *asked, "--target", "blue")
    assert min(blue["peak"]) >= 14
    up = explained(folder, "colours", "colours.png", "--model-output", "red", "--score", "up")
    assert up["label"] == "value up"
    assert up["class"] is None
    assert up["probability"] is None


def test_an_output_has_to_be_named(folder):
    for command in (
        ("explain", folder / "colours.onnx", folder / "colours.png", "-o", folder / "out"),
        ("export", folder / "colours.onnx", "-o", folder / "x.onnx"),
        ("compare", folder / "colours.onnx", folder / "colours.onnx", folder / "colours.png"),
    ):
        message = one_line(run(*command))
        for shown in ("means (N, 3)", "masks (N, 3, 24, 24)", "red (N, 1)", "output="):
            assert shown in message
    told = run("doctor", folder / "colours.onnx")
    assert told.exit_code == 1
    assert "no output was named" in told.output
    assert run("doctor", folder / "colours.onnx", "--model-output", "means").exit_code == 0
    named = ("--model-output", "means", "--preprocess", "unit")
    same = run(
        "compare", folder / "colours.onnx", folder / "colours.onnx", folder / "colours.png", *named
    )
    assert same.exit_code == 0, same.output
    written = run(
        "export", folder / "colours.onnx", "-o", folder / "means.onnx", "--model-output", "means"
    )
    assert written.exit_code == 0, written.output


def test_an_output_without_a_head_of_its_own():
    """Every output of one model, by targets that name them, with one Explainer."""
    explainer = gm.Explainer(onnx.parser.parse_model(COLOURS).SerializeToString())
    images = np.random.default_rng(0).random((2, 3, 24, 24), np.float32)
    several = explainer.several(
        images,
        [gm.RegionScore(1, (3, 4), "masks"), gm.Similarity([1.0, 2.0, 3.0], output="means")],
    )
    assert [each.output for each in several] == ["masks", "means"]
    assert several[0].layer == several[1].layer
