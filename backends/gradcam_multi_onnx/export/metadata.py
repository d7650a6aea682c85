"""What a file says of itself, in `metadata_props`."""

from collections.abc import Sequence

import onnx

import gradcam_multi
from gradcam_multi.errors import ExportError
from gradcam_multi.spec import ExportOrder, TensorSpec
from gradcam_multi_onnx.source import Source

PREFIX = "gradcam_multi."


def write(
    file: onnx.ModelProto, order: ExportOrder, value: str, inputs: Sequence[TensorSpec],
    output: TensorSpec,
) -> None:  # fmt: skip
    """Note kind, layer, method, layout, preprocessing and versions.

    `value` is what the file itself calls the layer's activations.
    """
    pictures = [spec for spec in inputs if spec.layout is not None]
    properties = {
        "kind": order.kind,
        "layer": order.layer_name,
        "value": value,
        "method": order.method if order.kind == "heatmap" else "",
        "output": order.output_name,
        "activation": output.activation or "",
        "layout": pictures[0].layout or "" if pictures else "",
        "preprocessing": order.preprocess,
        "version": gradcam_multi.__version__,
        "onnx_version": onnx.__version__,
    }
    onnx.helper.set_model_props(file, {PREFIX + key: text for key, text in properties.items()})


def read(source: Source) -> dict[str, str]:
    """Return what an exported file says of itself; empty for any other model."""
    entries = {entry.key: entry.value for entry in source.outline()[0].metadata_props}
    return {
        key.removeprefix(PREFIX): value for key, value in entries.items() if key.startswith(PREFIX)
    }


def refuse_exported(source: Source) -> None:
    """Raise ExportError where the model is an exported file itself."""
    kind = read(source).get("kind")
    if kind:
        raise ExportError(
            f"{source.name} is itself an exported file (kind {kind}); give the model it was made of"
        )
