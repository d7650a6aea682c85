"""What the entry point names: claims PyTorch models without importing torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcam_multi.errors import MissingExtraError, ModelFileError
from gradcam_multi.hooks import hookimpl

if TYPE_CHECKING:
    from gradcam_multi.demo.networks import DemoNetwork
    from gradcam_multi.spec import Model

SUFFIXES = (".pt", ".pth", ".pt2", ".safetensors")
CLAIMED = {
    ("torch.nn.modules.module", "Module"),
    ("torch.export.exported_program", "ExportedProgram"),
}
# A Keras model on the torch backend is a torch.nn.Module too, but the Keras adapter knows more.
FOREIGN = ("keras", "tf_keras")


@hookimpl
def gradcam_multi_open(model: Any) -> "Model | None":
    """Open a torch.nn.Module; None for anything else that is not PyTorch's.

    Raises MissingExtraError where torch is absent, ModelFileError for a file of weights and
    UnsupportedError for a scripted or exported program.
    """
    if isinstance(model, (str, Path)):
        path = Path(model)
        if path.suffix.lower() not in SUFFIXES:
            return None
        _require_torch(repr(path.name))
        raise ModelFileError(_file_message(path))
    if not _claimed(type(model)):
        return None
    _require_torch(f"a {type(model).__name__}")
    from gradcam_multi_torch.model import open_module

    return open_module(model)


@hookimpl
def gradcam_multi_build(network: "DemoNetwork") -> Any:
    """Build a described network as a torch.nn.Sequential in eval mode."""
    _require_torch("the demo network")
    from gradcam_multi_torch.demo import build

    return build(network)


@hookimpl
def gradcam_multi_to_onnx(model: Any, inputs: Any) -> "bytes | None":
    """Export a torch.nn.Module by PyTorch; None for anything else."""
    if not _claimed(type(model)):
        return None
    _require_torch(f"a {type(model).__name__}")
    from gradcam_multi_torch.onnx_export import to_onnx

    return to_onnx(model, inputs)


def _claimed(cls: type) -> bool:
    ancestry = cls.__mro__
    if any(base.__module__.split(".")[0] in FOREIGN for base in ancestry):
        return False
    return any((base.__module__, base.__name__) in CLAIMED for base in ancestry)


def _require_torch(asked: str) -> None:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:  # a mere folder called torch has no origin
        raise MissingExtraError(
            f"cannot open {asked}: PyTorch is not installed; "
            'run: python -m pip install "gradcam-multi[torch]"'
        )


def _file_message(path: Path) -> str:
    if not path.exists():
        return f"cannot open {str(path)!r}: there is no such file; check the path"
    if path.suffix.lower() == ".pt2":
        return (
            f"cannot open {str(path)!r}: it holds an exported program, which cannot be traced; "
            "hand over the torch.nn.Module it was exported from, or its ONNX export"
        )
    return (
        f"cannot open {str(path)!r}: a file of weights is no model; build the torch.nn.Module, "
        "load the weights into it with load_state_dict, and hand over the module"
    )
