"""What the entry point names: claims ONNX models without importing onnx or onnxruntime."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcam_multi.errors import MissingExtraError
from gradcam_multi.hooks import hookimpl

if TYPE_CHECKING:
    from gradcam_multi.demo.networks import DemoNetwork
    from gradcam_multi.spec import Exported, ExportOrder, Model

_CLASSES = {("onnx", "ModelProto"), ("onnxruntime", "InferenceSession")}


def _claims(model: Any) -> bool:
    if isinstance(model, str | Path):
        return str(model).lower().endswith(".onnx")
    if isinstance(model, bytes | bytearray | memoryview):
        return True
    return any(
        (cls.__module__.partition(".")[0], cls.__name__) in _CLASSES for cls in type(model).__mro__
    )


def _require() -> None:
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"ONNX models need {' and '.join(missing)}, not installed here; "
            'pip install "gradcam-multi[onnx]"'
        )


@hookimpl
def gradcam_multi_open(model: Any) -> "Model | None":
    """Open a path ending in .onnx, bytes, an onnx.ModelProto or an onnxruntime.InferenceSession."""
    if not _claims(model):
        return None
    _require()
    from gradcam_multi_onnx.export.metadata import read
    from gradcam_multi_onnx.model import OnnxModel
    from gradcam_multi_onnx.source import open_source

    source = open_source(model)
    properties = read(source)
    if properties.get("kind") == "gradient":
        from gradcam_multi_onnx.export.recognised import GradientFile

        return GradientFile(source, properties)
    return OnnxModel(source)


@hookimpl
def gradcam_multi_build(network: "DemoNetwork") -> Any:
    """Build a described network as the bytes of an ONNX file."""
    _require()
    from gradcam_multi_onnx.demo import build

    return build(network)


@hookimpl
def gradcam_multi_to_onnx(model: Any, inputs: Any) -> "str | bytes | None":
    """Return a path as it is, anything else that is claimed as bytes."""
    if not _claims(model):
        return None
    _require()
    from gradcam_multi_onnx.source import open_source

    source = open_source(model)
    return str(source.path) if source.path else source.read()


@hookimpl
def gradcam_multi_reweigh(model: Any, change: Any) -> "bytes | None":
    """Copy what is claimed, with other weights, as bytes; None for anything else."""
    if not _claims(model):
        return None
    _require()
    from gradcam_multi_onnx.reweigh import reweigh

    return reweigh(model, change)


@hookimpl
def gradcam_multi_export(model: "str | bytes", order: "ExportOrder") -> "Exported":
    """Build a file of standard operators that explains the model."""
    _require()
    from gradcam_multi_onnx.export.build import build

    return build(model, order)
