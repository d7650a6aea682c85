"""``gradcam evaluate`` on the demo's network: what is printed and written, and what goes wrong."""

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from click.testing import CliRunner
from PIL import Image

from gradcam_multi import metrics
from gradcam_multi.cli import main
from gradcam_multi.cli.evaluate import mask_on
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes, load_network
from gradcam_multi.geometry import Geometry
from gradcam_multi.plugins import installed

COUNT = 5


def run(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def one_line(result):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(COUNT, seed=VALIDATION_SEED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "sound.onnx").write_bytes(installed().build(load_network("sound"), "onnx"))
    for name in ("pictures", "masks"):
        (folder / name).mkdir()
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / "pictures" / f"{number}.png")
        Image.fromarray(scene.mask).save(folder / "masks" / f"{number}.png")
    return folder


def test_the_command_prints_what_python_measures(folder, scenes, tmp_path):
    asked = "average-drop,deletion,pointing-game,energy"
    result = run(
        folder / "sound.onnx", folder / "pictures", "--masks", folder / "masks",
        "--preprocess", "unit", "--methods", "gradcam,layercam", "--metrics", asked,
        "--steps", 4, "-o", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = metrics.evaluate(
        str(folder / "sound.onnx"),
        as_inputs(scenes),
        methods=["gradcam", "layercam"],
        metrics=asked.split(","),
        masks=np.stack([scene.mask for scene in scenes]),
        options=metrics.Options(steps=4),
    )
    assert result.stdout.splitlines()[:-1] == str(found).splitlines()
    assert result.stdout.splitlines()[-1].startswith("wrote ")
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["methods"] == found.to_dict()["methods"]
    assert report["items"] == [str(folder / "pictures" / f"{n}.png") for n in range(COUNT)]
    with Image.open(tmp_path / "evaluation.png") as picture:
        assert picture.width > 1000  # three charts side by side, and one below
        assert len(picture.getcolors(1 << 20)) > 4


def test_a_model_that_takes_one_picture_at_a_time(folder, scenes, tmp_path):
    model = onnx.load(folder / "sound.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    run = dict(methods=["layercam"], options=metrics.Options(steps=5))
    found, expected = (
        metrics.evaluate(str(path), as_inputs(scenes), **run)
        for path in (tmp_path / "one.onnx", folder / "sound.onnx")
    )
    for metric in found.metrics:
        np.testing.assert_allclose(
            found.values["layercam"][metric], expected.values["layercam"][metric],
            atol=1e-5,  # float32 forward passes in batches of other sizes
        )  # fmt: skip


def test_bad_pictures_and_masks_are_skipped_and_named(folder, scenes, tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, scene in enumerate(scenes[:3]):
        Image.fromarray(scene.image).save(tmp_path / "pictures" / f"{number}.png")
    (tmp_path / "pictures" / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "masks").mkdir()
    Image.fromarray(scenes[0].mask).save(tmp_path / "masks" / "0.png")
    Image.new("L", (5, 4)).save(tmp_path / "masks" / "1.png")
    result = run(
        folder / "sound.onnx", tmp_path / "pictures", "--masks", tmp_path / "masks",
        "--preprocess", "unit", "--methods", "gradcam", "--metrics", "energy", "--json",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1
    said = result.stderr.splitlines()
    assert "1.png' is 5 x 4 pixels, its picture 96 x 96" in said[0]
    assert "2.png' has no mask" in said[1]
    assert "bad.jpg' is no picture" in said[2]
    report = json.loads(result.stdout)
    assert len(report["items"]) == 1
    assert len(report["skipped"]) == 3
    (tmp_path / "masks" / "0.png").unlink()
    result = run(
        folder / "sound.onnx", tmp_path / "pictures", "--masks", tmp_path / "masks",
        "--preprocess", "unit", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 4


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--methods", "gradcm"], "no method is called 'gradcm'"),
        (["--metrics", "deletoin"], "did you mean 'deletion'"),
        (["--metrics", "energy"], "energy compares with masks"),
        (["--masks", "nowhere"], "no folder 'nowhere' for --masks"),
        (["--baseline", "grey", "--metrics", "deletion"], "give 'blur', 'mean' or a number"),
        (["--steps", "0", "--metrics", "deletion"], "0 steps were asked for"),
    ],
)
def test_what_is_asked_wrongly(folder, tmp_path, more, said):
    line = one_line(
        run(
            folder / "sound.onnx",
            folder / "pictures",
            "--preprocess",
            "unit",
            "-o",
            tmp_path,
            *more,
        )
    )
    assert said in line


def test_a_mask_follows_the_crop():
    mask = np.zeros((6, 10), bool)
    mask[2:4, 4:6] = True
    whole = Geometry((6, 10), (0, 0, 6, 10))
    np.testing.assert_array_equal(mask_on(mask, whole, (6, 10)), mask)
    # The middle 6 x 6 pixels, each as 2 x 2.
    crop = Geometry((6, 10), (0, 2, 6, 8))
    found = mask_on(mask, crop, (12, 12))
    expected = np.kron(mask[:, 2:8], np.ones((2, 2), bool))
    np.testing.assert_array_equal(found, expected)
    # Half as large: each pixel takes what is at its centre, on the edge of four.
    assert mask_on(mask, whole, (3, 5)).sum() == 1
