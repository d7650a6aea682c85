"""The wheel that brings ONNX Runtime Web: its pins agree, and it holds what it says."""

import json
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from gradcam_multi.live.runtime import FILES, NOTICES, PACKAGE

WEB = Path(__file__).parents[2] / "web"


def test_one_version_everywhere():
    project = tomllib.loads((WEB / "pyproject.toml").read_text())["project"]
    package = json.loads((WEB / "package.json").read_text())
    lock = json.loads((WEB / "package-lock.json").read_text())["packages"]
    runtime = lock["node_modules/onnxruntime-web"]
    assert project["version"] == package["version"] == runtime["version"]
    assert package["dependencies"] == {"onnxruntime-web": project["version"]}
    assert all(entry["integrity"].startswith("sha512-") for place, entry in lock.items() if place)
    assert not any("resolved" in entry for entry in lock.values())  # any registry will do


def test_what_is_installed():
    try:
        found = metadata.distribution("gradcam-multi-web")
    except metadata.PackageNotFoundError:
        pytest.skip("gradcam-multi-web is not installed; python -m pip install ./web builds it")
    held = {str(file) for file in found.files}
    assert {f"{PACKAGE}/runtime/{name}" for name in (*FILES, NOTICES)} <= held
    notices = Path(found.locate_file(f"{PACKAGE}/runtime/{NOTICES}")).read_text(encoding="utf-8")
    for words in ("ONNX Runtime Web 1.", "Copyright (c) Microsoft", "flatbuffers", "protobufjs"):
        assert words in notices
    assert "THIRD PARTY SOFTWARE NOTICES" in notices
