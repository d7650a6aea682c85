"""What the entry point names: claims ONNX models without importing onnx or onnxruntime."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcam_multi.errors import MissingExtraError
from gradcam_multi.hooks import hookimpl

if TYPE_CHECKING:
    from gradcam_multi.demo.networks import DemoNetwork
    from gradcam_multi.spec import Model

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
    from gradcam_multi_onnx.model import OnnxModel
    from gradcam_multi_onnx.source import open_source

    return OnnxModel(open_source(model))


@hookimpl
def gradcam_multi_build(network: "DemoNetwork") -> Any:
    """Build a described network as the bytes of an ONNX file."""
    _require()
    from gradcam_multi_onnx.demo import build

    return build(network)
