"""From a Keras object or a path to an opened model, with every refusal in one line."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from gradcam_multi.errors import MissingExtraError, ModelFileError, UnsupportedError
from gradcam_multi.spec import Model


def open_object(model: Any) -> Model:
    """Open a Keras 3 model object.

    Raises MissingExtraError, and UnsupportedError for Keras 2 and for backends other than
    TensorFlow.
    """
    keras = require_keras()
    if not isinstance(model, keras.Operation):
        raise UnsupportedError(
            f"a {type(model).__module__}.{type(model).__qualname__} belongs to Keras 2, which is "
            "not supported; save it as .keras or .h5 and open that file with Keras 3"
        )
    from gradcam_multi_tensorflow.model import KerasModel

    return KerasModel(model)


def open_file(path: str) -> Model:
    """Open a `.keras`, `.h5` or `.hdf5` file; code stored in it is never run (safe mode).

    Raises ModelFileError for a damaged file, and what `open_object` raises.
    """
    if os.path.isdir(path) and os.path.isfile(os.path.join(path, "saved_model.pb")):
        raise UnsupportedError(
            f"{path!r} is a SavedModel folder, which keeps no layers; open the Keras model it was "
            "exported from, as an object or as a .keras file"
        )
    if not os.path.exists(path):
        raise ModelFileError(f"there is no file {path!r}; check the path")
    keras = require_keras()
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises nearly anything here, h5py and zipfile the rest
        raise ModelFileError(_why(path, error)) from error
    return open_object(model)


def require_keras() -> ModuleType:
    """Import Keras on TensorFlow. Raises MissingExtraError or UnsupportedError without it."""
    try:
        import keras
    except ImportError as error:
        raise MissingExtraError(
            f"a Keras model was given, but TensorFlow cannot be imported ({_first_line(error)}); "
            'run: pip install "gradcam-multi[tensorflow]"'
        ) from error
    if keras.backend.backend() != "tensorflow":
        raise UnsupportedError(
            f"Keras runs on the {keras.backend.backend()} backend here, and only its TensorFlow "
            "backend is supported; save the model as .keras and open it in a process started with "
            "KERAS_BACKEND=tensorflow"
        )
    module: ModuleType = keras
    return module


def _why(path: str, error: Exception) -> str:
    text = str(error)
    if "safe_mode" in text or "unsafe" in text.lower():
        return (
            f"{path!r} holds Python code (a Lambda layer), which is not run; if you trust it, open "
            "keras.saving.load_model(path, safe_mode=False) and give that model"
        )
    if "Could not locate" in text or "Unknown layer" in text or "custom_objects" in text:
        return (
            f"{path!r} uses a class that Keras does not know ({_first_line(error)}); load it with "
            "keras.saving.load_model(path, custom_objects=...) and give that model"
        )
    if "No model config" in text or "No model found" in text:
        return (
            f"{path!r} holds weights only; build the model, load them with "
            "model.load_weights(path) and give that model"
        )
    return (
        f"{path!r} cannot be read as a Keras model ({_first_line(error)}); save it again with "
        "model.save(path)"
    )


def _first_line(error: Exception) -> str:
    # Keras wraps what went wrong in the whole configuration, and says it last.
    text = " ".join(str(error).split()).rpartition("Exception encountered: ")[2]
    return f"{type(error).__name__}: {text[:160]}{'...' if len(text) > 160 else ''}"
