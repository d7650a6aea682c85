"""Arguments that older Keras wrote into model files and that this one refuses.

Where such an argument has the value at which it changes nothing, it is dropped while the file is
read; the file itself is not touched.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from gradcam_multi.errors import ModelFileError

ANY = object()
"""Marks an argument that never changed what a layer computes."""

_UNCHANGED: dict[str, tuple[Any, ...]] = {
    "groups": (1,),  # DepthwiseConv2D of Keras 2
    "time_major": (False,),
    "renorm": (False,),
    "renorm_clipping": (ANY,),  # read only where renorm is on
    "renorm_momentum": (ANY,),
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "fused": (ANY,),  # how, not what
    "implementation": (ANY,),  # how, not what
    "experimental_autocast": (ANY,),
    "ragged": (False,),
    "input_dim": (ANY,),  # said again by the input's shape
    "input_length": (ANY,),
    "lr": (ANY,),  # of an optimizer, which no inference reads
    "decay": (ANY,),
}
"""For each argument, the values at which leaving it out changes nothing."""


def shims(keras: ModuleType, path: str) -> dict[str, Any]:
    """Return stand-ins for the classes in a file that were given obsolete arguments.

    They go into `custom_objects` and build the classes proper. Raises ModelFileError where such
    an argument has a value that changes what the layer computes.
    """
    found: dict[str, Any] = {}
    for name, config in _described(_config(path)):
        cls = getattr(keras.layers, name, None)
        if cls is None:
            continue
        obsolete = [key for key in config if key in _UNCHANGED and not _takes(cls, key)]
        for key in obsolete:
            allowed = _UNCHANGED[key]
            if not any(value is ANY or value == config[key] for value in allowed):
                raise ModelFileError(
                    f"{path!r} was written by an older Keras: its {name} {config.get('name')!r} "
                    f"has {key}={config[key]!r}, which Keras {keras.__version__} cannot compute; "
                    "convert it to ONNX with that Keras and open the .onnx file"
                )
        if obsolete:
            found[name] = _shim(cls)
    return found


def _shim(cls: Any) -> type:
    class Shim:
        @classmethod
        def from_config(cls_, config: dict[str, Any]) -> Any:
            kept = {
                key: value
                for key, value in config.items()
                if key not in _UNCHANGED or _takes(cls, key)
            }
            return cls.from_config(kept)

    Shim.__name__ = cls.__name__
    return Shim


def _takes(cls: Any, argument: str) -> bool:
    return argument in cls.__init__.__code__.co_varnames[: cls.__init__.__code__.co_argcount]


def _config(path: str) -> Any:
    """Read the description of the model in a file; None where there is none."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py

        with h5py.File(path, "r") as file:
            return json.loads(file.attrs["model_config"])
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _described(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the class name and the arguments of everything that a configuration describes."""
    if isinstance(config, dict):
        name, inner = config.get("class_name"), config.get("config")
        if isinstance(name, str) and isinstance(inner, dict):
            yield name, inner
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _described(part)
