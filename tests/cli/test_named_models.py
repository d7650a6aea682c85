"""MODEL as package.module:function: what is imported and called, and what is said when it fails."""

import sys

import numpy as np
import pytest
from click.testing import CliRunner

from gradcam_multi.cli import main
from gradcam_multi.cli.models import made_up, open_model
from gradcam_multi.errors import ModelError, ModelFileError, UnknownModelError

SOURCE = '''
from functools import partial

class Model:
    """No adapter knows it."""

class Zoo:
    number = 3

    @classmethod
    def small(cls):
        return Model()

def build():
    return Model()

def path():
    return "model.onnx"

def nothing():
    pass

def wrong():
    return {"a": 1}

def needs(width):
    return Model()

def leaves():
    raise SystemExit("I am off")

def broken():
    import no_such_package

ready = Model()
given = partial(needs, 3)
'''


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a package, as the user's current one."""
    package = tmp_path / "zoo_for_tests"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "models.py").write_text(SOURCE)
    (package / "needy.py").write_text("import no_such_package\n")
    (package / "faulty.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("zoo_for_tests")]:
        del sys.modules[name]


@pytest.mark.parametrize("attribute", ["build", "Model", "Zoo.small", "ready", "given"])
def test_functions_classes_and_finished_models(attribute):
    assert type(open_model(f"zoo_for_tests.models:{attribute}")).__name__ == "Model"


def test_a_function_may_return_a_path():
    assert open_model("zoo_for_tests.models:path") == "model.onnx"


@pytest.mark.parametrize("path", ["model.onnx", "./a:b", "C:\\models\\a.onnx", "folder/m.keras"])
def test_paths_stay_paths(path):
    assert open_model(path) == path


def test_a_file_whose_name_looks_like_a_function_is_a_file(here):
    (here / "a:b").touch()
    assert open_model("a:b") == "a:b"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zoo_for_test.models:build", "no module 'zoo_for_test' .*did you mean 'zoo_for_tests'"),
        ("zoo_for_tests.model:build", "no module 'model' in zoo_for_tests; did you mean 'models'"),
        ("zoo_for_tests.models.x:build", "no module 'x' in zoo_for_tests.models; check the name"),
        ("zoo_for_tests.models:bild", "models has no 'bild'; did you mean 'build'"),
        ("zoo_for_tests.models:Zoo.smal", "Zoo has no 'smal'; did you mean 'small'"),
        ("zoo_for_tests.models:Zoo.number", "is an int, which cannot be called: name a function"),
        ("zoo_for_tests.models:nothing", "returned None: let it return the model"),
        ("zoo_for_tests.models:wrong", "returned a dict: let it return the model"),
        ("zoo_for_tests.models:needs", r"raised TypeError: needs\(\) missing 1 required"),
        ("zoo_for_tests.models:leaves", r"raised SystemExit: I am off \(models.py, line 30\)"),
        ("zoo_for_tests.models:broken", r"raised ModuleNotFoundError: .*'no_such_package' \(mod"),
        ("zoo_for_tests.needy:build", r"raised ModuleNotFoundError: .* \(needy.py, line 1\)"),
        ("zoo_for_tests.faulty:build", "raised SyntaxError: .*faulty.py, line 1"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(name, words):
    with pytest.raises(ModelError, match=words):
        open_model(name)
    result = CliRunner().invoke(main, ["layers", name])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1


def test_weights_need_something_to_go_into():
    with pytest.raises(ModelFileError, match="weights go into what a function builds"):
        open_model("model.onnx", "w.pth")
    with pytest.raises(UnknownModelError, match="no adapter claims"):
        open_model("zoo_for_tests.models:build", "w.pth")


def test_made_up_inputs():
    assert made_up(None).shape == (1, 3, 224, 224)
    assert made_up((1, 1, 50), count=2).shape == (2, 1, 50)
    np.testing.assert_array_equal(made_up((3, 4)), made_up((3, 4)))


@pytest.mark.parametrize("size", ["64", "64x48", "1x3x64x48"])
def test_an_input_size_in_every_form(size):
    from gradcam_multi.cli.models import _shape

    assert _shape(None, None, size) == ((1, 3, 64, 64) if size == "64" else (1, 3, 64, 48))


def test_an_input_size_that_is_none():
    result = CliRunner().invoke(main, ["layers", "model.onnx", "--input-size", "64x"])
    assert result.exit_code == 2
    assert "give whole numbers such as 224x224" in result.stderr
