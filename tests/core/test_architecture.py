"""What imports what: the arrows of the core, and no framework before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gradcam_multi

CORE = Path(gradcam_multi.__file__).parent
FRAMEWORKS = {"torch", "tensorflow", "keras", "onnx", "onnxruntime", "jax"}

# Each part of the core, lowest first; a module imports only from lines above its own.
ORDER = [
    "errors", "spec", "finite", "backward", "heads", "sizes", "image_input", "labels", "products",
    "resize", "exif", "cam", "layers", "tokens", "choice", "targets", "choices",
    "probabilities", "images", "colormaps", "demo",
    "hooks", "geometry", "preprocess", "overlay", "attribution", "plugins", "panel",
    "picture_input", "explanation", "notices", "fusion", "contributions", "blocks", "scoring",
    "probing", "smoothing", "explainer", "concepts", "verification", "export", "gallery", "page",
    "live", "agreement", "pair", "comparison", "comparison_table", "comparer", "compare",
    "drift_panel", "diagnosis", "doctor", "metrics", "audit", "testing", "cli", "__main__",
]  # fmt: skip
# Behind a function or for types only, where a name is needed without making an arrow.
LATE = {
    ("explanation", "gallery"),
    ("explanation", "page"),
    ("hooks", "demo"),
    ("comparison", "comparison_table"),
    ("comparison", "drift_panel"),
}


def part(module):
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def imported(path):
    """Parts of the core that a module imports, late imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("gradcam_multi")
        ):
            if node.module == "gradcam_multi":
                yield from (
                    alias.name for alias in node.names if (CORE / f"{alias.name}.py").exists()
                )
            else:
                yield part(node.module)


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(CORE)))
def test_arrows_go_one_way(path):
    own = path.relative_to(CORE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # holds names only, and so may import all
    for other in imported(path):
        if other != own and (own, other) not in LATE:
            assert ORDER.index(other) < ORDER.index(own), f"{own} must not import {other}"


def test_a_wrong_arrow_would_be_seen(tmp_path):
    (tmp_path / "m.py").write_text("from gradcam_multi.cli import main\nimport numpy\n")
    assert list(imported(tmp_path / "m.py")) == ["cli"]


@pytest.mark.parametrize(
    "code",
    [
        "import gradcam_multi",
        "from gradcam_multi.plugins import installed; installed()",
        "from gradcam_multi.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "import gradcam_multi as gm\ntry: gm.explain({}, [1])\nexcept gm.ModelError: pass",
    ],
    ids=["import", "plugins", "help", "unknown model"],
)
def test_no_framework_is_imported(code):
    check = f"{code}\nimport sys\nprint('LOADED', sorted({FRAMEWORKS!r} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "LOADED []"


def test_public_names_are_sorted_and_exist():
    names = gradcam_multi.__all__
    assert sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n)) == names
    for name in names:
        assert getattr(gradcam_multi, name) is not None
    assert set(names) <= set(dir(gradcam_multi))


def test_public_names_are_listed_alike_for_type_checkers_and_at_runtime():
    tree = ast.parse((CORE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    for_types = {part(node.module): tuple(a.name for a in node.names) for node in block.body}
    assert for_types == gradcam_multi._HOMES
    assert sorted(gradcam_multi._HOME) == sorted(gradcam_multi.__all__)


def test_what_is_no_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'heatmaps'"):
        gradcam_multi.heatmaps  # noqa: B018, asked for on purpose


def test_importing_costs_little_and_modules_do_not_hide_functions():
    """Names are loaded when they are used: the whole takes longer to import than NumPy."""
    check = """
import sys, gradcam_multi
heavy = {"numpy", "PIL", "pluggy", "importlib.metadata", "email", "click"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import gradcam_multi.compare, gradcam_multi.audit.run, gradcam_multi.layers
from gradcam_multi.doctor import doctor
assert all(map(callable, (gradcam_multi.compare, gradcam_multi.audit, gradcam_multi.layers)))
assert gradcam_multi.doctor is doctor
assert gradcam_multi.errors.GradcamError is gradcam_multi.GradcamError
"""
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_error_tree_is_the_one_that_is_drawn():
    from gradcam_multi import errors

    drawn = [
        line for line in errors.__doc__.splitlines() if "Error" in line and line.startswith("    ")
    ]
    parents = {}
    stack = []
    for line in drawn:
        name = next(word for word in line.replace("│", " ").split() if word.endswith("Error"))
        depth = line.index(name)
        while stack and stack[-1][0] >= depth:
            stack.pop()
        parents[name] = stack[-1][1] if stack else "Exception"
        stack.append((depth, name))
    classes = {
        n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, Exception)
    }
    assert parents == {name: cls.__bases__[0].__name__ for name, cls in classes.items()}
