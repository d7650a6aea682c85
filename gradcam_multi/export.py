"""Explanations as files: an ONNX model of standard operators that returns the heatmap itself.

The file is built by an adapter and checked here before it is written, against the maps that the
model gives by itself: on two inputs and several classes they must be equal, and differ from each
other.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from gradcam_multi.cam import method_named
from gradcam_multi.choice import outputs_of
from gradcam_multi.errors import ExportError, suggest
from gradcam_multi.explainer import Explainer, chosen_output
from gradcam_multi.layers import final_feature_map, path_of
from gradcam_multi.plugins import installed
from gradcam_multi.preprocess import Preprocess
from gradcam_multi.spec import (
    Array,
    ClassInput,
    ExportOrder,
    Inputs,
    Kind,
    Model,
    TensorSpec,
)
from gradcam_multi.verification import (
    FRAMEWORKS,
    HALF,
    TOLERANCE,
    check_gradients,
    check_heatmaps,
    check_inputs,
    own_maps,
)


def export(
    model: Any,
    path: str | Path,
    *,
    kind: Kind = "heatmap",
    layer: str | None = None,
    method: str = "gradcam",
    inputs: Inputs = None,
    preprocess: Preprocess | str | Path | None = None,
    output: str | None = None,
    opset: int | None = None,
    class_input: ClassInput = "optional",
    backend: str | None = None,
    trust: bool = False,
    grid: Sequence[int] | None = None,
) -> Path:
    """Write an ONNX file that explains the model by itself, and return its path.

    ``kind="heatmap"``: takes the model's inputs and `class_index` (int64, one for all or one an
    item; negative or absent for the top class); returns `scores` (N, classes) before a softmax,
    `class` (N,), `heatmap` (N, *input spatial) in [0, 1], and what else the model returns.
    ``kind="gradient"``: takes the inputs and a `cotangent` of the scores; returns `scores`,
    `activations` and `gradients`, (N, C, *grid).

    `inputs` are a batch to check the file with, two items or more; made up where left out, which
    needs a model that says what it takes. `preprocess` is noted in the file. `opset` is 18 to 21.
    ``class_input="required"`` is for runtimes that cannot leave an input out (ONNX Runtime Web).
    `trust` and `grid` are those of `Explainer`.

    Raises ExportError, and writes nothing, where the file does not give the model's own maps.
    """
    method_named(method)
    _choice("kind", kind, get_args(Kind))
    _choice("class_input", class_input, get_args(ClassInput))
    prepare = Preprocess.named(preprocess) if isinstance(preprocess, str | Path) else preprocess
    target = Path(path)
    if not target.parent.is_dir():
        raise ExportError(f"cannot write {str(path)!r}: its folder does not exist; make it first")
    native = Explainer(
        model,
        layer=layer,
        method=method,
        backend=backend,
        output=output,
        trust=trust,
        grid=grid,
    )
    batch = check_inputs(native.model, inputs, prepare)
    # The user's own run comes first: what is asked wrongly is said in the user's own terms.
    references = own_maps(native, batch) if kind == "heatmap" else []
    explained, shown = (
        (references[0].layer, references[0].output) if references else _chosen(native, batch)
    )
    names = _output_names(native.model, batch, explained)
    content = installed().to_onnx(model, batch, backend, trust)
    # Where the model is such a file itself, its layers have names there; else a layer is found by
    # what it computes.
    own = installed().open(content).backend == native.model.backend
    order = ExportOrder(
        kind=kind,
        layer=explained if own else _activations(native.model, batch, explained),
        layer_name=explained,
        output=shown if own else names.index(shown),
        output_name=shown,
        method=method,
        inputs=batch,
        preprocess=_noted(prepare, native.model.inputs),
        opset=opset,
        class_input=class_input,
        folding=native.folding(batch),
    )
    built = installed().export(content, order)
    tolerance = HALF if built.half else TOLERANCE if own else FRAMEWORKS
    if kind == "heatmap":
        check_heatmaps(built, order, references, tolerance)
    else:
        check_gradients(built, order, tolerance, native.model)
    _write(target, built.data)
    return target


def _choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ExportError(
            f"{name} {value!r} was asked for; there are {' and '.join(allowed)}"
            f"{suggest(str(value), allowed)}"
        )


def _write(target: Path, data: bytes) -> None:
    """Write all or nothing: to a file beside it, then in one step."""
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(data)
        Path(file.name).chmod(0o644)
        os.replace(file.name, target)
    except OSError as error:
        raise ExportError(f"cannot write {str(target)!r}: {error.strerror}; check it") from error


def _noted(prepare: Preprocess | None, specs: Sequence[TensorSpec]) -> str:
    """JSON of the preprocessing, with what it leaves to the model filled in."""
    if prepare is None:
        return ""
    pictures = [spec for spec in specs if len(spec.shape) == 4]
    if pictures:
        spec = pictures[0]
        size = spec.shape[1:3] if spec.layout == "channels_last" else spec.shape[2:4]
        prepare = replace(prepare, layout=prepare.layout or spec.layout)
        if prepare.size is None and size[0] and size[1]:
            prepare = replace(prepare, size=(size[0], size[1]))
    return prepare.to_json()


def _chosen(native: Explainer, batch: Inputs) -> tuple[str, str]:
    """Names of the layer and the output that a gradient is for; the output may be a map."""
    listed = native.layers(batch)
    output = chosen_output(native.output, outputs_of(native.model, listed))
    named = native.layer
    return path_of(named, listed) if named else final_feature_map(listed, output).name, output


def _output_names(model: Model, batch: Inputs, layer: str) -> list[str]:
    if model.outputs:
        return [spec.name for spec in model.outputs]
    with model.trace(batch, [layer]) as trace:
        return list(trace.outputs)


def _activations(model: Model, batch: Inputs, layer: str) -> Array:
    with model.trace(batch, [layer]) as trace:
        return trace.activations[0].copy()
