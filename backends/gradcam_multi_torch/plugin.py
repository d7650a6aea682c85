"""What the entry point names: claims PyTorch models without importing torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcam_multi.errors import MissingExtraError
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
def gradcam_multi_open(model: Any, trust: bool = False) -> "Model | None":
    """Open a torch.nn.Module, a program of torch.export or TorchScript, or a file of one.

    None for anything else that is not PyTorch's. Raises MissingExtraError where torch is absent,
    ModelFileError for a file of weights, and for code in a file without `trust`.
    """
    found = _model(model, trust)
    if found is None:
        return None
    from gradcam_multi_torch.model import open_module

    return open_module(found)


@hookimpl
def gradcam_multi_build(network: "DemoNetwork") -> Any:
    """Build a described network as a torch.nn.Sequential in eval mode."""
    _require_torch("the demo network")
    from gradcam_multi_torch.demo import build

    return build(network)


@hookimpl
def gradcam_multi_load_weights(model: Any, path: str, trust: bool) -> bool | None:
    """Load a file of weights into a torch.nn.Module; None for anything else."""
    if not _claimed(type(model)):
        return None
    _require_torch(f"a {type(model).__name__}")
    from gradcam_multi_torch.weights import load_weights

    load_weights(model, path, trust)
    return True


@hookimpl
def gradcam_multi_to_onnx(model: Any, inputs: Any, trust: bool = False) -> "bytes | None":
    """Export what `gradcam_multi_open` claims by PyTorch; None for anything else."""
    found = _model(model, trust)
    if found is None:
        return None
    from gradcam_multi_torch.onnx_export import to_onnx

    return to_onnx(found, inputs)


@hookimpl
def gradcam_multi_reweigh(model: Any, change: Any, trust: bool = False) -> Any:
    """Copy what `gradcam_multi_open` claims, with other weights; None for anything else."""
    found = _model(model, trust)
    if found is None:
        return None
    from gradcam_multi_torch.reweigh import reweigh

    return reweigh(found, change)


def _model(model: Any, trust: bool) -> Any:
    """Return what is PyTorch's, read from its file where it is one; None for anything else."""
    if isinstance(model, (str, Path)):
        path = Path(model)
        if path.suffix.lower() not in SUFFIXES:
            return None
        _require_torch(repr(path.name))
        from gradcam_multi_torch.files import read_model

        return read_model(path, trust)
    if not _claimed(type(model)):
        return None
    _require_torch(f"a {type(model).__name__}")
    return model


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
