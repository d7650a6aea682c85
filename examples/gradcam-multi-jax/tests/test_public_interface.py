"""The adapter is written from the public interface alone."""

import ast
import subprocess
import sys
from pathlib import Path

import gradcam_multi_jax
import pytest

PACKAGE = Path(gradcam_multi_jax.__file__).parent
PUBLIC = {"gradcam_multi", "gradcam_multi.backward", "gradcam_multi.errors", "gradcam_multi.spec"}
"""What docs/adapters.md names for adapters; `gradcam_multi.testing` is for their tests."""
TESTS = [path for path in Path(__file__).parent.glob("*.py") if path != Path(__file__)]


def imported(source):
    """Modules of gradcam_multi or of its own adapters, and the names taken from them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def private(source, public=frozenset(PUBLIC)):
    """What a module takes that is not public."""
    for module, name in imported(source):
        root = module.split(".")[0]
        own = root == "gradcam_multi_jax"
        if root.startswith("gradcam_multi") and not own and module not in public:
            yield module
        if any(part.startswith("_") for part in [*module.split("."), name or ""]):
            yield f"{module}.{name}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_nothing_private_and_no_other_adapter_is_imported(path):
    assert list(private(path.read_text())) == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_its_tests_need_the_kit_besides(path):
    assert list(private(path.read_text(), PUBLIC | {"gradcam_multi.testing"})) == []


@pytest.mark.parametrize(
    "source",
    [
        "from gradcam_multi.plugins import installed",
        "from gradcam_multi.explainer import _arrays",
        "import gradcam_multi_torch.model",
        "from jax._src import core",
    ],
)
def test_what_is_private_would_be_seen(source):
    assert list(private(source))


def test_the_names_of_the_core_are_those_that_it_publishes():
    import gradcam_multi

    names = {
        name
        for path in PACKAGE.rglob("*.py")
        for module, name in imported(path.read_text())
        if module == "gradcam_multi"
    }
    assert names
    assert names <= set(gradcam_multi.__all__)


def test_the_entry_point_imports_no_framework():
    code = "import gradcam_multi_jax.plugin, sys; print({'jax', 'flax'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"
