"""The hooks by which adapters enter, and the marker with which they are written.

An adapter is a module or object registered under the entry-point group ``gradcam_multi``; the
entry point's name is the backend's name. It must import in milliseconds and import no framework:
a model is claimed by its class ancestry or its file, and the framework is imported only then.
"""

from typing import TYPE_CHECKING, Any

import pluggy

from gradcam_multi.spec import Exported, ExportOrder, Inputs, Model

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gradcam_multi.demo.networks import DemoNetwork

PROJECT = "gradcam_multi"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def gradcam_multi_open(model: Any, trust: bool) -> Model | None:
    """Open a model object or file, or return None where it is somebody else's.

    Code that a file holds (a pickle, a Lambda layer) is run only where `trust` is true. Raises
    MissingExtraError where the adapter claims the model but its framework is absent, and
    ModelFileError where the file is damaged.
    """


@hookspec(firstresult=True)
def gradcam_multi_build(network: "DemoNetwork") -> Any:
    """Build a network that is described layer by layer, in the adapter's framework.

    Returns a model object that `gradcam_multi_open` claims. The demo uses it to hand the same
    weights to every framework; an adapter can do without.
    """


@hookspec(firstresult=True)
def gradcam_multi_load_weights(model: Any, path: str, trust: bool) -> bool | None:
    """Load a file of weights into a model object; return True, or None for somebody else's model.

    A pickle is unpickled only where `trust` is true. Raises ModelFileError where the file is
    damaged, or does not fit the model: then it names what is missing and what is left over.
    """


@hookspec(firstresult=True)
def gradcam_multi_to_onnx(model: Any, inputs: Inputs, trust: bool) -> "str | bytes | None":
    """Return a model as ONNX, a file's path or its content, or None where it is somebody else's.

    Inputs and outputs are in the model's own order. `inputs` are a batch that the model takes, for
    frameworks that have to run it; `trust` is that of `gradcam_multi_open`. Raises
    MissingExtraError where something needed is absent, UnsupportedError where the framework's own
    export fails.
    """


@hookspec(firstresult=True)
def gradcam_multi_reweigh(
    model: Any, change: "Callable[[str, NDArray[Any]], NDArray[Any]]", trust: bool
) -> Any:
    """Return a copy of a model with other weights, or None where it is somebody else's.

    `change` is called with a layer's name and each of its arrays of weights, always in the same
    order, and returns what stands there in the copy; the model itself is not touched. Raises
    UnsupportedError where it cannot be copied.
    """


@hookspec(firstresult=True)
def gradcam_multi_export(model: "str | bytes", order: ExportOrder) -> Exported | None:
    """Build a file that explains the ONNX model as `order` says, to be checked by the caller."""
