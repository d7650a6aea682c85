"""Files that hold a PyTorch model, opened only where their code may run."""

import contextlib
import logging
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradcam_multi.errors import ModelFileError, UnsupportedError
from gradcam_multi_torch.weights import damaged

BUILDER = "gradcam explain mypackage.models:build --weights {name}"
KEYS = ("model", "ema", "module", "net", "network")


def read_model(path: Path, trust: bool) -> Any:
    """Read a pickled module, an exported program or a TorchScript program.

    All three are code, which runs as they are read: without `trust` none is. Raises
    ModelFileError, and UnsupportedError for a compiled package.
    """
    if not path.exists():
        raise ModelFileError(f"cannot open {str(path)!r}: there is no such file; check the path")
    members = _members(path)
    kind = _kind(path, members)
    if kind == "compiled":
        raise UnsupportedError(
            f"cannot open {str(path)!r}: it holds a model compiled to machine code, which has no "
            "layers; give the torch.nn.Module it was compiled from, or its torch.export program"
        )
    if kind == "weights":
        raise _only_weights(path)
    if not trust:
        if kind == "pickle":
            raise ModelFileError(
                f"{_only_weights(path)}; a pickled module is opened with trust=True (--trust), "
                "which runs code of the file"
            )
        raise ModelFileError(
            f"cannot open {str(path)!r}: reading {kind} runs code of the file; give trust=True "
            "(--trust) where you trust it, or the torch.nn.Module it was made from"
        )
    try:
        return _read(path, kind)
    except ModelFileError:
        raise
    except Exception as error:  # code of the file, which can fail in any way
        raise damaged(str(path), error) from error


def _members(path: Path) -> list[str]:
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return [name.partition("/")[2] or name for name in archive.namelist()]
    return []


def _kind(path: Path, members: list[str]) -> str:
    if any(name.startswith("data/aotinductor/") for name in members):
        return "compiled"
    if any(name.startswith("code/") for name in members):
        return "a TorchScript program"
    if path.suffix.lower() == ".pt2" or any(name.startswith("models/") for name in members):
        return "an exported program"
    return "weights" if path.suffix.lower() == ".safetensors" else "pickle"


def _read(path: Path, kind: str) -> Any:
    where = None if torch.cuda.is_available() else "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (DeprecationWarning, FutureWarning))
        if kind == "a TorchScript program":
            return torch.jit.load(path, map_location=where)
        if kind == "an exported program":
            return _program(path)
        found = torch.load(path, map_location=where, weights_only=False)
    inner = [found[key] for key in KEYS if key in found] if isinstance(found, Mapping) else []
    modules = [each for each in (found, *inner) if isinstance(each, nn.Module)]
    if not modules:
        raise _only_weights(path)
    return modules[0]


def _program(path: Path) -> Any:
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # what goes wrong is said in one line by the caller
    try:
        return torch.export.load(path)
    finally:
        logger.setLevel(level)


def _only_weights(path: Path) -> ModelFileError:
    return ModelFileError(
        f"cannot open {str(path)!r}: a file of weights is no model; build the torch.nn.Module, "
        "load the weights into it with load_state_dict, and hand over the module, or on the "
        f"command line: {BUILDER.format(name=path.name)} ..."
    )
