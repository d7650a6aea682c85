"""The wheel as a user gets it: what is in it, and the demo from an empty environment."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [
    "gradcam_multi",
    "gradcam_multi_onnx",
    "gradcam_multi_tensorflow",
    "gradcam_multi_torch",
]


def clean_environment():
    """Nothing of this checkout may be found by accident."""
    return {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("build", reason="the package 'build' is not installed; tox -e wheel has it")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_top_level_names(wheel):
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert sorted(n for n in names if not n.endswith(".dist-info")) == PACKAGES


def test_each_package_is_typed_and_holds_every_module(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
        source = ROOT / package if package == "gradcam_multi" else ROOT / "backends" / package
        modules = {str(path.relative_to(source.parent)) for path in source.rglob("*.py")}
        assert modules <= names
    # What pages are made of is no module.
    for name in ("page/report.html.j2", "page/maps.js", "live/index.html", "live/worker.js"):
        assert f"gradcam_multi/{name}" in names


def test_what_the_demo_needs_is_small(wheel):
    infos = [i for i in zipfile.ZipFile(wheel).infolist() if "/demo/data/" in i.filename]
    assert {Path(i.filename).name for i in infos} >= {"sound.npz", "shortcut.npz", "scene0.png"}
    assert sum(i.file_size for i in infos) < 1.5e6


def test_metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata, entries = (
        archive.read(
            next(n for n in archive.namelist() if n.endswith(f".dist-info/{name}"))
        ).decode()
        for name in ("METADATA", "entry_points.txt")
    )
    assert "License-Expression: Apache-2.0" in metadata
    for extra in ("onnx", "onnx-gpu", "torch", "tensorflow", "report", "web", "all", "dev"):
        assert f"Provides-Extra: {extra}" in metadata
    assert "gradcam = gradcam_multi.cli:main" in entries
    both = [
        line for line in metadata.splitlines()
        if "onnxruntime" in line and "extra == 'all'" in line
    ]  # fmt: skip
    assert len(both) <= 1  # the two runtimes share one import name


def test_the_demo_from_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    python = binaries / "python"
    environment = clean_environment()
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", f"{wheel}[onnx]"], check=True, env=environment
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = subprocess.run(
        [binaries / "gradcam", "demo", "--scenes", "200"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    output = elsewhere / "gradcam-demo"
    figures = json.loads((output / "figures.json").read_text())["figures"]
    # What the two networks were made to show; measured on 200 scenes just now.
    for network in ("sound", "shortcut"):
        assert figures[network]["own"] > 0.95
    assert figures["sound"]["peak"] >= 0.9
    assert figures["shortcut"]["peak"] <= 0.3
    assert figures["sound"]["without"] > 0.9 > 0.6 > figures["shortcut"]["without"]
    assert (output / "demo.png").stat().st_size > 50_000
    again = subprocess.run(
        [binaries / "gradcam", "explain", "gradcam-demo/shortcut.onnx", "gradcam-demo/scenes",
         "--preprocess", "unit", "--labels", "gradcam-demo/labels.txt"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert len(list((elsewhere / "gradcam").glob("*.png"))) == 8
