"""From a Keras object or a path to an opened model, with every refusal in one line."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from gradcam_multi.errors import MissingExtraError, ModelFileError, UnsupportedError
from gradcam_multi.spec import Model

SUPPORTED = ("tensorflow", "torch", "jax")


def open_object(model: Any) -> Model:
    """Open a Keras 3 model object, on whichever backend Keras runs.

    Raises MissingExtraError, and UnsupportedError for Keras 2 and for backends that have no
    gradients.
    """
    keras = require_keras()
    if not isinstance(model, keras.Operation):
        raise UnsupportedError(
            f"a {type(model).__module__}.{type(model).__qualname__} belongs to Keras 2, which is "
            "not supported; save it as .keras or .h5 and open that file with Keras 3"
        )
    if keras.backend.backend() == "tensorflow":
        from gradcam_multi_tensorflow.model import KerasModel

        return KerasModel(model)
    from gradcam_multi_tensorflow.eager_model import EagerModel

    return EagerModel(model)


def open_loaded(model: Any) -> Model:
    """Open what `tf.saved_model.load` returned. Raises UnsupportedError and MissingExtraError."""
    require_keras("tensorflow")
    from gradcam_multi_tensorflow.saved import SavedModel

    return SavedModel(model, "the SavedModel")


def open_file(path: str, trust: bool = False) -> Model:
    """Open a `.keras`, `.h5` or `.hdf5` file, or a SavedModel folder.

    Code that a Keras file holds (a Lambda layer) is run only where `trust` is true. Raises
    ModelFileError for a damaged file, and what `open_object` raises.
    """
    if path.lower().endswith(".pb") and os.path.basename(path) != "saved_model.pb":
        raise UnsupportedError(
            f"{path!r} is a frozen graph, which does not say what its inputs and outputs are; open "
            "the SavedModel folder or the Keras file it was made from, or convert it with "
            "tf2onnx and open the .onnx file"
        )
    if not os.path.exists(path):
        raise ModelFileError(f"there is no file {path!r}; check the path")
    folder = os.path.dirname(path) or "." if path.endswith("saved_model.pb") else path
    if os.path.isdir(folder):
        require_keras("tensorflow")
        from gradcam_multi_tensorflow.saved import load_folder

        return load_folder(folder)
    return open_object(_load(require_keras(), path, trust))


def require_keras(backend: str | None = None) -> ModuleType:
    """Import Keras on a backend that has gradients, or on the one named.

    Raises MissingExtraError or UnsupportedError without it.
    """
    try:
        import keras
    except ImportError as error:
        raise MissingExtraError(
            f"a Keras model was given, but Keras cannot be imported ({first_line(error)}); "
            'run: pip install "gradcam-multi[tensorflow]", or set KERAS_BACKEND to a framework '
            "that is installed"
        ) from error
    found = keras.backend.backend()
    if found not in ((backend,) if backend else SUPPORTED):
        raise UnsupportedError(
            f"Keras runs on the {found} backend here, which cannot open this model; open it in a "
            f"process started with KERAS_BACKEND={backend or SUPPORTED[0]}"
        )
    module: ModuleType = keras
    return module


def first_line(error: Exception) -> str:
    """Return an error's class and what it says, in one short line."""
    # Keras wraps what went wrong in the whole configuration, and says it last.
    text = " ".join(str(error).split()).rpartition("Exception encountered: ")[2]
    return f"{type(error).__name__}: {text[:160]}{'...' if len(text) > 160 else ''}"


def _load(keras: ModuleType, path: str, trust: bool) -> Any:
    from gradcam_multi_tensorflow.obsolete import shims

    def read(known: dict[str, Any]) -> Any:
        return keras.saving.load_model(
            path, custom_objects=known, compile=False, safe_mode=not trust
        )

    # Keras raises nearly anything here, h5py and zipfile the rest.
    try:
        return read({})
    except Exception as error:
        # Older Keras wrote arguments that this one refuses, even where they change nothing.
        known = shims(keras, path)
        if not known:
            raise ModelFileError(_why(path, error)) from error
    try:
        return read(known)
    except Exception as error:
        raise ModelFileError(_why(path, error)) from error


def _why(path: str, error: Exception) -> str:
    text = str(error)
    if "safe_mode" in text or "unsafe" in text.lower():
        return (
            f"{path!r} holds Python code (a Lambda layer), which is not run; if you trust where "
            "the file comes from, ask for it: trust=True, on the command line --trust, "
            "safe_mode=False for Keras itself"
        )
    if "Could not locate" in text or "Unknown layer" in text or "custom_objects" in text:
        return (
            f"{path!r} uses a class that Keras does not know ({first_line(error)}); load it with "
            "keras.saving.load_model(path, custom_objects=...) and give that model"
        )
    if "No model config" in text or "No model found" in text:
        return (
            f"{path!r} holds weights only; build the model, load them with "
            "model.load_weights(path) and give that model"
        )
    return (
        f"{path!r} cannot be read as a Keras model ({first_line(error)}); save it again with "
        "model.save(path)"
    )
