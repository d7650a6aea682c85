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
_FROZEN = ".pb"


@hookimpl(tryfirst=True)  # Keras on the torch backend is an nn.Module too, but ours to answer for
def gradcam_multi_open(model: Any, trust: bool = False) -> Model | None:
    """Open a Keras model, its file, or a SavedModel as folder or object; None for anything else.

    A Lambda layer in a file is run only where `trust` is true. Raises MissingExtraError without
    Keras or its backend, ModelFileError for a damaged file, and UnsupportedError for Keras 2
    objects and frozen graphs.
    """
    if isinstance(model, str | os.PathLike):
        path = os.fspath(model)
        if not (isinstance(path, str) and _is_ours(path)):
            return None
        from gradcam_multi_tensorflow import files

        return files.open_file(path, trust)
    if _is_keras(model):
        from gradcam_multi_tensorflow import files

        return files.open_object(model)
    if _is_loaded(model):
        from gradcam_multi_tensorflow import files

        return files.open_loaded(model)
    return None


@hookimpl(tryfirst=True)  # as above
def gradcam_multi_load_weights(model: Any, path: str) -> bool | None:
    """Load `.weights.h5`, `.h5` or `.keras` weights into a Keras model; None for another model.

    Raises ModelFileError where the file is damaged or does not fit; the model is then unchanged.
    """
    if not _is_keras(model):
        return None
    from gradcam_multi_tensorflow import weights

    weights.load(model, os.fspath(path))
    return True


@hookimpl
def gradcam_multi_build(network: DemoNetwork) -> Any:
    """Build a described network as a `keras.Sequential` with channels-last input."""
    from gradcam_multi_tensorflow import demo

    return demo.build(network)


@hookimpl
def gradcam_multi_to_onnx(model: Any, inputs: Any, trust: bool = False) -> bytes | None:
    """Export a Keras model or its file by Keras on torch; None for anything else."""
    if isinstance(model, str | os.PathLike):
        if not str(os.fspath(model)).lower().endswith(_SUFFIXES):
            return None
    elif not _is_keras(model):
        return None
    from gradcam_multi_tensorflow.onnx_export import to_onnx

    return to_onnx(model, inputs, trust)


def _is_keras(model: Any) -> bool:
    return any(
        cls.__module__.partition(".")[0] in _ROOTS and cls.__name__ in _BASES
        for cls in type(model).__mro__
    )


def _is_loaded(model: Any) -> bool:
    """Whether it is what `tf.saved_model.load` returns."""
    return hasattr(model, "signatures") and any(
        cls.__module__.startswith("tensorflow.") and cls.__name__ == "AutoTrackable"
        for cls in type(model).__mro__
    )


def _is_ours(path: str) -> bool:
    return path.lower().endswith((*_SUFFIXES, _FROZEN)) or os.path.isfile(
        os.path.join(path, "saved_model.pb")
    )
