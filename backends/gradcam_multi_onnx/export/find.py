"""A layer of another framework's model, found in the ONNX graph by what it computes."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import ExportError
from gradcam_multi.spec import Array
from gradcam_multi_onnx.feeds import Feeds, batches
from gradcam_multi_onnx.model import OnnxModel
from gradcam_multi_onnx.session import Forward, as_float
from gradcam_multi_onnx.trace import channels_first

_TOLERANCE = 1e-3  # of the largest: two frameworks' float32 through a deep network


def find_layer(
    opened: OnnxModel, asked: str | Array, feeds: Feeds, renamed: Mapping[str, str]
) -> str:
    """Return the value of a layer, given by name or by its activations (N, C, *grid).

    Raises UnknownLayerError, or ExportError where no value holds these activations.
    """
    if isinstance(asked, str):
        return opened._resolve(renamed.get(asked, asked))
    listed = opened.layers()
    values = [layer.name for layer in listed if len(layer.shape or ()) in (0, asked.ndim)]
    session = Forward(opened._graph.source, (), values)
    runs = [(session(part), count) for part, count in batches(opened.inputs, feeds)]
    best, closest = np.inf, ""
    scale = max(float(np.abs(asked).max()), 1e-30)
    for name in values:
        axes = opened._batch_axes.get(name, 0), opened._axes.get(name)
        parts = [channels_first(as_float(run[name]), axes)[:count] for run, count in runs]
        difference = _difference(np.concatenate(parts), asked) / scale
        # Of equal ones the last: a copy of the layer's result, nearer to the score.
        if difference <= best or difference < _TOLERANCE / 100:
            best, closest = min(best, difference), name
    if best > _TOLERANCE:
        raise ExportError(
            f"the ONNX form of the model holds no value equal to the layer's {asked.shape} "
            f"activations (nearest: {closest!r}, {best:.1e} of the largest away); choose another "
            "layer, or export the model to ONNX and name a layer of that"
        )
    return closest


def _difference(found: NDArray[np.float32], asked: Array) -> float:
    return float(np.abs(found - asked).max()) if found.shape == asked.shape else np.inf
