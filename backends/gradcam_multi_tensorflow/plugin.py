"""What the entry point names: which models are Keras models, decided without importing Keras."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from gradcam_multi.hooks import hookimpl
from gradcam_multi.spec import Model

if TYPE_CHECKING:
    from gradcam_multi.demo.networks import DemoNetwork

_ROOTS = ("keras", "tf_keras")
_BASES = ("Model", "Layer", "Operation")
_SUFFIXES = (".keras", ".h5", ".hdf5")


@hookimpl(tryfirst=True)  # Keras on the torch backend is an nn.Module too, but ours to answer for
def gradcam_multi_open(model: Any) -> Model | None:
    """Open a Keras model or its file; None for anything else.

    Raises MissingExtraError without TensorFlow, ModelFileError for a damaged file, and
    UnsupportedError for Keras on another backend and for SavedModel folders.
    """
    if isinstance(model, str | os.PathLike):
        path = os.fspath(model)
        if not (isinstance(path, str) and (path.lower().endswith(_SUFFIXES) or _saved_model(path))):
            return None
        from gradcam_multi_tensorflow import files

        return files.open_file(path)
    if not _is_keras(model):
        return None
    from gradcam_multi_tensorflow import files

    return files.open_object(model)


@hookimpl
def gradcam_multi_build(network: DemoNetwork) -> Any:
    """Build a described network as a `keras.Sequential` with channels-last input."""
    from gradcam_multi_tensorflow import demo

    return demo.build(network)


@hookimpl
def gradcam_multi_to_onnx(model: Any, inputs: Any) -> bytes | None:
    """Export a Keras model or its file by Keras on torch; None for anything else."""
    if isinstance(model, str | os.PathLike):
        if not str(os.fspath(model)).lower().endswith(_SUFFIXES):
            return None
    elif not _is_keras(model):
        return None
    from gradcam_multi_tensorflow.onnx_export import to_onnx

    return to_onnx(model, inputs)


def _is_keras(model: Any) -> bool:
    return any(
        cls.__module__.partition(".")[0] in _ROOTS and cls.__name__ in _BASES
        for cls in type(model).__mro__
    )


def _saved_model(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "saved_model.pb"))
