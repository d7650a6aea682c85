"""``gradcam compare`` and ``doctor`` where no framework is needed: what is asked wrongly."""

import pytest
from click.testing import CliRunner
from PIL import Image

from gradcam_multi.cli import main
from gradcam_multi.cli.compare import _is_picture, _layers


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def one_line(result):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (32, 24), (200, 10, 10)).save(path)
    return path


def test_models_and_pictures_are_told_apart(photo, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    assert _is_picture(str(photo))
    assert _is_picture(str(tmp_path))
    assert _is_picture("photos/*.jpg")
    for model in ("m.onnx", "m.keras", "package.models:build", str(tmp_path / "saved"), "absent"):
        assert not _is_picture(model)


@pytest.mark.parametrize(
    ("asked", "count", "expected"),
    [
        (None, 3, [None]),
        ("a", 3, ["a"]),
        ("a=b", 2, ["a", "b"]),
        ("a=b", 4, ["a", "b", "b", "b"]),
        ("a=b=c", 3, ["a", "b", "c"]),
    ],
)
def test_layers_of_each_model(asked, count, expected):
    assert _layers(asked, count) == expected


def test_something_is_missing(photo):
    assert "found 1 model and 1 of pictures" in one_line(run("compare", "a.onnx", photo))
    assert "found 2 models and 0 of pictures" in one_line(run("compare", "a.onnx", "b.onnx"))


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (["--max-drift", "5"], "max_drift is 5.0: give a number from 0 to 1"),
        (["--min-agreement", "95"], "min_agreement is 95.0"),
        (["--preprocess", "imagnet"], "did you mean 'imagenet'"),
        (
            ["--preprocess", "unit", "--preprocess", "tf", "--preprocess", "tf"],
            "3 of preprocessing",
        ),
        (["--layer", "a=b=c"], "3 of layer were given for 2 models"),
        (["--method", "gradcam+"], "did you mean 'gradcam++'"),
        (["nothing*.png"], "nothing*.png"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_asked_wrongly(photo, more, found):
    assert found in one_line(run("compare", "a.onnx", "b.onnx", photo, *more))


def test_a_model_that_is_not_there(photo, tmp_path):
    absent = tmp_path / "absent.xyz"
    assert "absent.xyz" in one_line(run("compare", absent, absent, photo))
    assert "absent.xyz" in one_line(run("doctor", absent))


def test_a_file_that_is_no_model_is_a_diagnosis(tmp_path):
    path = tmp_path / "model.xyz"
    path.write_bytes(b"?")
    result = run("doctor", path)
    assert result.exit_code == 1
    assert "cannot be explained" in result.stdout
    assert result.stderr == ""
