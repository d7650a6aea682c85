"""A Keras model as an ONNX file, by Keras' own export under its torch backend.

Keras chooses its backend once for a process, so this runs in a process of its own, which
`under_torch.py` is the program of.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gradcam_multi.errors import MissingExtraError, ModelFileError, UnsupportedError

_PROGRAM = Path(__file__).with_name("under_torch.py")
_FAILED = "gradcam_multi: "


def to_onnx(model: Any, inputs: Any, trust: bool = False) -> bytes:
    """Return a Keras model, or its file, as ONNX. `inputs` are not needed.

    Code that a file brings along is run only where `trust` is true.

    Raises MissingExtraError without torch, UnsupportedError where Keras cannot export the model.
    """
    missing = [name for name in ("torch", "onnx") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"a Keras model becomes ONNX by way of PyTorch: {' and '.join(missing)} not installed; "
            'run: pip install "gradcam-multi[torch,onnx]"'
        )
    with tempfile.TemporaryDirectory(prefix="gradcam_multi_") as folder:
        own = not isinstance(model, str | os.PathLike)
        stored = Path(folder, "model.keras") if own else Path(os.fspath(model))
        if own:
            _save(model, stored)
        elif not stored.exists():
            raise ModelFileError(f"there is no file {str(stored)!r}; check the path")
        target = Path(folder, "model.onnx")
        # The code of a model in memory is the caller's own.
        mode = "unsafe" if own or trust else "safe"
        command = [sys.executable, str(_PROGRAM), str(stored), str(target), mode]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_environment()
        )
        if result.returncode or not target.exists():
            raise UnsupportedError(
                f"Keras cannot export the model under its torch backend: {_why(result.stderr)}; "
                "export it yourself and give the .onnx file"
            )
        return target.read_bytes()


def _save(model: Any, path: Path) -> None:
    try:
        model.save(path)
    except Exception as error:
        raise UnsupportedError(
            f"Keras cannot save the model, and it has to be saved to be exported: "
            f"{' '.join(str(error).split())[:200]}; export it yourself and give the .onnx file"
        ) from error


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    return {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": paths}


def _why(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.removeprefix(_FAILED) for line in lines if line.startswith(_FAILED)]
    return (said or lines or ["no reason given"])[-1][:300]
