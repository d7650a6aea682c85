"""Files of weights, compared with the model before they are loaded into it."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from typing import Any

from gradcam_multi.errors import ModelFileError
from gradcam_multi_tensorflow.files import first_line, require_keras

_SUFFIXES = (".keras", ".h5", ".hdf5")
_MEMBER = "model.weights.h5"
_NAMED = 3  # of the weights that do not fit, in a message

Shapes = dict[str, tuple[int, ...]]


def load(model: Any, path: str) -> None:
    """Load a `.weights.h5`, `.h5` or `.keras` file into a Keras model.

    Raises ModelFileError where the file is damaged or absent, or does not fit the model; the
    weights are then those that they were.
    """
    keras = require_keras()
    if not path.lower().endswith(_SUFFIXES):
        raise ModelFileError(
            f"weights {path!r} cannot be read: Keras keeps weights in .weights.h5, .h5 and .keras "
            "files; save them with model.save_weights(path)"
        )
    if not os.path.exists(path):
        raise ModelFileError(f"there is no file {path!r}; check the path")
    if not model.built:
        raise ModelFileError(
            f"weights {path!r} cannot be loaded: the model {model.name!r} has no weights before it "
            "is built; call it once on an input, or build it with model.build(shape)"
        )
    before = [keras.ops.convert_to_numpy(weight).copy() for weight in model.weights]
    with tempfile.TemporaryDirectory(prefix="gradcam_multi_") as folder:
        try:
            stored = _shapes(path)
            if stored is not None:
                _compare(path, _own_shapes(model, folder), stored)
            # Keras goes by the name of a file, and users rename them.
            kind = "keras" if zipfile.is_zipfile(path) else "weights.h5"
            link = os.path.join(folder, f"given.{'h5' if stored is None else kind}")
            os.symlink(os.path.abspath(path), link)
            model.load_weights(link)
        except ModelFileError:
            raise
        except Exception as error:  # Keras raises nearly anything here, h5py and zipfile the rest
            for weight, value in zip(model.weights, before, strict=True):
                weight.assign(value)
            raise ModelFileError(
                f"weights {path!r} cannot be loaded into the model {model.name!r} "
                f"({first_line(error)}); give a file that was saved from the same architecture"
            ) from error


def _own_shapes(model: Any, folder: str) -> Shapes:
    own = os.path.join(folder, "own.weights.h5")
    model.save_weights(own)
    shapes = _shapes(own)
    os.remove(own)
    return shapes or {}


def _shapes(path: str) -> Shapes | None:
    """Return the shape of each weight by its place in a file; None for a file of Keras 2's kind."""
    import h5py

    source: Any = path
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(archive.read(_MEMBER))
    shapes: Shapes = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name.partition("/")[0] != "optimizer":
            shapes[name] = tuple(item.shape)

    with h5py.File(source, "r") as file:
        if "layer_names" in file.attrs or "model_weights" in file:
            return None
        file.visititems(visit)
    return shapes


def _compare(path: str, wanted: Shapes, found: Shapes) -> None:
    missing = [name for name in wanted if name not in found]
    left = [name for name in found if name not in wanted]
    other = [
        f"{name} {found[name]} for {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    said = [
        f"{len(names)} {what} ({', '.join(names[:_NAMED])}{', ...' if names[_NAMED:] else ''})"
        for names, what in ((missing, "missing"), (left, "left over"), (other, "of another shape"))
        if names
    ]
    if said:
        raise ModelFileError(
            f"weights {path!r} do not fit the model, and none was loaded: {'; '.join(said)}; give "
            "a file that was saved from the same architecture"
        )
