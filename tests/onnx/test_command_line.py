"""``gradcam explain`` and ``layers`` on ONNX files: what is written, and what goes wrong."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

from click.testing import CliRunner
from PIL import Image

from gradcam_multi import METHODS, Explainer, Preprocess, concepts, load_image
from gradcam_multi.cli import main
from gradcam_multi.demo import load_examples, load_network
from gradcam_multi.plugins import installed

DATA = Path(__file__).parents[3] / "shared" / "data"


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_line(result):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, labels and ten pictures, one of which is broken off."""
    folder = tmp_path_factory.mktemp("cli")
    network = load_network("sound")
    (folder / "sound.onnx").write_bytes(installed().build(network, "onnx"))
    (folder / "labels.txt").write_text("\n".join(network.classes))
    (folder / "photos").mkdir()
    for index, scene in enumerate(load_examples()):
        Image.fromarray(scene.image).save(folder / "photos" / f"{index}.png")
    Image.fromarray(load_examples()[0].image).resize((203, 97)).save(folder / "photos" / "wide.jpg")
    whole = (folder / "photos" / "wide.jpg").read_bytes()
    (folder / "photos" / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def explain(folder, *more):
    return run(
        "explain", folder / "sound.onnx", folder / "photos", "--preprocess", "unit",
        "--labels", folder / "labels.txt", "--output", folder / "out", *more,
    )  # fmt: skip


def test_one_bad_picture_is_reported_and_the_others_are_done(folder):
    result = explain(folder)
    assert result.exit_code == 1, result.output
    assert len(result.stderr.strip().splitlines()) == 1
    assert "broken.jpg" in result.stderr
    assert {path.stem for path in (folder / "out").glob("*.png")} == {*"01234567", "wide"}
    classes = load_network("sound").classes
    for index, scene in enumerate(load_examples()):
        block = result.stdout.split(f"{index}.png\n")[1].splitlines()[0].split()
        assert block[0] == str(scene.label)
        assert block[2] == classes[scene.label]
    assert "9 pictures in" in result.stdout
    with Image.open(folder / "out" / "wide.png") as panel:
        assert panel.size[0] > panel.size[1]  # a picture and its overlay, both wider than high


def one_photo(folder, *more):
    """The only record of one picture."""
    result = run(
        "explain", folder / "sound.onnx", folder / "photos" / "0.png", "--preprocess", "unit",
        "--output", folder / "one", "--json", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)[0]


@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if "attention" not in m.needs])
def test_every_method_can_be_asked_for(folder, method):
    record = one_photo(folder, "--method", method, "--samples", 2, "--seed", 3)
    assert record["method"] == method
    expected = Explainer(folder / "sound.onnx", method=method, samples=2, seed=3)(
        Preprocess.named("unit").apply(load_image(folder / "photos" / "0.png"), size=(96, 96))[0][
            None
        ]
    )
    np.testing.assert_allclose(record["explanations"][0]["cam"], expected.cam[0], rtol=1e-6)
    assert record["explanations"][0]["cost"] == expected.cost


def test_several_layers_are_fused_and_maps_smoothed(folder):
    listed = Explainer(folder / "sound.onnx").layers()
    names = [layer.name for layer in listed.spatial if layer.kind == "Relu"][-2:]
    asked = [word for name in names for word in ("--layer", name)]
    record = one_photo(folder, *asked, "--fuse", "product", "--smooth", "flip")
    assert record["layer"] == " + ".join(names)
    expected = Explainer(folder / "sound.onnx", layer=names, fuse="product", smooth="flip")(
        Preprocess.named("unit").apply(load_image(folder / "photos" / "0.png"), size=(96, 96))[0][
            None
        ]
    )
    np.testing.assert_allclose(record["explanations"][0]["cam"], expected.cam[0], rtol=1e-6)


def test_concepts_of_several_pictures(folder):
    photos = [folder / "photos" / f"{index}.png" for index in range(3)]
    asked = (
        "concepts", folder / "sound.onnx", *photos, "--preprocess", "unit", "--number", 3,
        "--labels", folder / "labels.txt", "-o", folder / "found" / "concepts.png",
    )  # fmt: skip
    result = run(*asked, "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    images = [load_image(photo) for photo in photos]
    inputs = np.stack([Preprocess.named("unit").apply(i, size=(96, 96))[0] for i in images])
    labels = load_network("sound").classes
    expected = concepts(folder / "sound.onnx", inputs, 3, labels=labels)
    assert record["explained"] == pytest.approx(expected.explained, rel=1e-6)
    for k, entry in enumerate(record["concepts"]):
        assert [each["label"] for each in entry["classes"]] == [n for n, _ in expected.classes(k)]
    with Image.open(record["picture"]) as drawn:
        whole = expected.to_pil(
            images, [Preprocess.named("unit").apply(i, size=(96, 96))[1] for i in images]
        )
        assert drawn.size == whole.size
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(whole))
    lines = run(*asked).stdout.splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("3 concepts of 3 pictures in")
    assert "99 concepts were asked for" in one_line(run(*asked, "--number", 99))
    assert "give another --output" in one_line(run(*asked, "-o", folder / "concepts.xyz"))


def test_json_holds_the_map_of_the_api(folder):
    result = explain(folder, "--json", "--top", 3, "--method", "layercam")
    records = json.loads(result.stdout)
    assert len(records) == 9
    record = records[0]
    image = load_image(record["image"])
    array, _ = Preprocess.named("unit").apply(image, size=(96, 96))
    explainer = Explainer(folder / "sound.onnx", method="layercam")
    ranked = [entry["class"] for entry in record["explanations"]]
    assert len(set(ranked)) == 3
    for entry in record["explanations"]:
        explanation = explainer(array[None], entry["class"])
        scale = max(explanation.cam.max(), 1e-30)
        # The command runs eight pictures at once: other kernels, float32.
        np.testing.assert_allclose(entry["cam"], explanation.cam[0], atol=1e-5 * scale)
        assert entry["probability"] == pytest.approx(explanation.probabilities[0], abs=1e-5)
    shares = [entry["probability"] for entry in record["explanations"]]
    assert shares == sorted(shares, reverse=True)


def test_target_by_name_and_by_index(folder):
    by_name = explain(folder, "--json", "--target", "mug")
    by_index = explain(folder, "--json", "--target", load_network("sound").classes.index("mug"))
    assert json.loads(by_name.stdout) == json.loads(by_index.stdout)


def test_the_same_stem_twice_overwrites_nothing(folder, tmp_path):
    first, second = folder / "photos" / "0.png", tmp_path / "0.png"
    second.write_bytes(first.read_bytes())
    result = run(
        "explain", folder / "sound.onnx", first, second, "--preprocess", "unit",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0-2.png", "0.png"]


def test_layers_marks_the_default(folder):
    result = run("layers", folder / "sound.onnx")
    assert [line.split()[1] for line in result.stdout.splitlines() if line[0] == "*"] == ["relu5"]
    listed = json.loads(run("layers", folder / "sound.onnx", "--json", "--all").stdout)
    assert [layer["name"] for layer in listed if layer["default"]] == ["relu5"]
    assert listed[-1]["output"] == "logits"
    assert len(listed) > len(result.stdout.splitlines()) - 1


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (["--layer", "relu55"], "did you mean 'relu5'"),
        (["--target", "5000"], "class 5000 was asked for; the output has 8 classes"),
        (["--target", "mugg"], "did you mean 'mug'"),
        (["--backend", "onxx"], "did you mean 'onnx'"),
        (["--preprocess", "/nowhere.json"], "nowhere.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_asked_wrongly(folder, more, found):
    assert found in one_line(explain(folder, *more))


def test_a_preprocessing_of_another_size(folder, tmp_path):
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"size": [64, 64]}')
    assert "64x64" in one_line(explain(folder, "--preprocess", wrong))
    grey = tmp_path / "grey.json"
    grey.write_text('{"channels": "L"}')
    assert "1 channels, the model takes 3" in one_line(explain(folder, "--preprocess", grey))


def test_files_that_are_no_models(folder, tmp_path):
    text = tmp_path / "text.onnx"
    text.write_text("this is no model")
    photo = folder / "photos" / "0.png"
    for path in (text, tmp_path / "absent.onnx", tmp_path):
        message = one_line(run("explain", path, photo))
        assert path.name in message
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes((folder / "sound.onnx").read_bytes()[:-1000])
    assert "truncated.onnx" in one_line(run("layers", truncated))


def test_only_broken_pictures_is_an_error(folder, tmp_path):
    result = run(
        "explain", folder / "sound.onnx", folder / "photos" / "broken.jpg", "--output", tmp_path
    )
    assert "broken.jpg" in one_line(result)


def test_the_top_five_of_real_photographs(tmp_path):
    if not DATA.exists():
        pytest.skip("../shared/data is absent")
    result = run(
        "explain", DATA / "models" / "squeezenet1_1.onnx", DATA / "photos", "--json", "--top", 5,
        "--preprocess", "caffe", "--labels", DATA / "imagenet_classes.csv", "--output", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    records = {Path(record["image"]).name: record for record in json.loads(result.stdout)}
    with open(DATA / "expected_top5.csv") as file:
        expected = {row["photo"]: row for row in csv.DictReader(file)}
    assert set(records) == set(expected)
    for photo, row in expected.items():
        entries = records[photo]["explanations"]
        indices = [int(index) for index in row["top5_indices"].split()]
        shares = [float(share) for share in row["top5_probabilities"].split()]
        # Classes whose probabilities agree to the four places given may swap.
        assert sorted(entry["class"] for entry in entries) == sorted(indices)
        found = {entry["class"]: entry["probability"] for entry in entries}
        assert [found[index] for index in indices] == pytest.approx(shares, abs=6e-5)
        assert (tmp_path / f"{Path(photo).stem}.png").exists()
