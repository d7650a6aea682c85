"""From a model and an order to a file."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from gradcam_multi.errors import ExportError, TargetError, UnsupportedError
from gradcam_multi.spec import Array, ExportOrder, Inputs
from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.registry import FreeExtent
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.autodiff.walk import differentiate
from gradcam_multi_onnx.export import heatmap, metadata
from gradcam_multi_onnx.export.find import find_layer
from gradcam_multi_onnx.export.half import widen_converted
from gradcam_multi_onnx.export.joint import Joint
from gradcam_multi_onnx.export.maps import MAPS
from gradcam_multi_onnx.export.prepare import (
    converted,
    fix_extents,
    make_room,
    opset_of,
    self_contained,
)
from gradcam_multi_onnx.feeds import Feeds, batches, make_feeds
from gradcam_multi_onnx.graph import FLOATS
from gradcam_multi_onnx.model import OnnxModel
from gradcam_multi_onnx.session import Session, make_session, one_line, run
from gradcam_multi_onnx.source import Source, open_source

CLASS_INPUT = "class_index"
NAMES = {
    "heatmap": (CLASS_INPUT, "scores", "class", "heatmap"),
    "gradient": ("cotangent", "scores", "activations", "gradients"),
}
"""What a file calls its own inputs and outputs."""

_HALF = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class ExportedFile:
    """A built file; see `gradcam_multi.spec.Exported`."""

    data: bytes
    half: bool
    own: OnnxModel

    @cached_property
    def _session(self) -> Session:
        return make_session(self.data)

    def run(self, inputs: Inputs, classes: NDArray[np.int64] | None) -> dict[str, Array]:
        """Run a heatmap file, in as many parts as its batch size asks for."""
        specs = self.own.inputs
        feeds = make_feeds(specs, inputs)
        extra: Feeds = {}
        required = CLASS_INPUT in {value.name for value in self._session.get_inputs()}
        if classes is not None or required:
            count = max(len(array) for array in feeds.values() if array.ndim)
            extra = {CLASS_INPUT: np.full(count, -1) if classes is None else np.asarray(classes)}
        with_classes = [*specs, *(replace(specs[0], name=name) for name in extra)]
        wanted = NAMES["heatmap"][1:]
        parts = [
            {name: array[:count] for name, array in run(self._session, part, wanted).items()}
            for part, count in batches(with_classes, {**feeds, **extra})
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}


def build(model: str | bytes, order: ExportOrder) -> ExportedFile:
    """Build the file that an order asks for. Raises what `gradcam_multi.errors` draws."""
    if order.kind == "heatmap" and order.method not in MAPS:
        raise ExportError(
            f"method {order.method!r} cannot be exported: it is not a function of activations and "
            f"gradients alone; there are {', '.join(MAPS)}"
        )
    source = open_source(model)
    metadata.refuse_exported(source)
    whole = self_contained(source)
    own = opset_of(whole)
    whole = converted(whole, order.opset)
    renamed = make_room(whole, NAMES[order.kind])
    half = any(t.data_type in _HALF for t in whole.graph.initializer)
    try:
        opened = _opened(whole, source)
        file = _build(whole, opened, order, renamed, own)
    except (FreeExtent, UnsupportedError):  # known sizes settle axes and pads that follow from them
        fix_extents(whole, {n: a.shape for n, a in make_feeds(opened.inputs, order.inputs).items()})
        opened = _opened(whole, source)
        try:
            file = _build(whole, opened, order, renamed, own)
        except FreeExtent as error:
            raise UnsupportedError(str(error)) from error
    try:
        onnx.checker.check_model(file, full_check=True)
    except Exception as error:
        raise ExportError(
            f"the exported file does not pass ONNX's checker: {one_line(error)}; report the model"
        ) from error
    return ExportedFile(file.SerializeToString(), half, opened)


def _opened(whole: onnx.ModelProto, source: Source) -> OnnxModel:
    data = whole.SerializeToString()
    return OnnxModel(Source(source.name, data=data, providers=source.providers))


def _build(
    whole: onnx.ModelProto, opened: OnnxModel, order: ExportOrder, renamed: dict[str, str], own: int
) -> onnx.ModelProto:
    opened.layers(order.inputs)  # types that inference cannot tell are learned from a run
    output = _output(opened, order.output, renamed)
    logits = opened._logits[output]
    feeds = make_feeds(opened.inputs, order.inputs)
    target = find_layer(opened, order.layer, feeds, renamed)
    graph = opened._graph
    gradient = differentiate(graph, [target], logits)
    joint = Joint(whole, graph, gradient, target)
    write = _heatmap if order.kind == "heatmap" else _gradient
    file = write(joint, opened, order, output, logits)
    widen_converted(file, graph.types, own, [target, *gradient.reads])
    spec = next(spec for spec in opened.outputs if spec.name == output)
    metadata.write(file, order, target, opened.inputs, spec)
    return file


def _output(opened: OnnxModel, asked: str | int, renamed: dict[str, str]) -> str:
    names = [spec.name for spec in opened.outputs]
    if isinstance(asked, int):
        if asked >= len(names):
            raise TargetError(
                f"output {asked} was asked for; as ONNX the model returns {', '.join(names)}"
            )
        return names[asked]
    return renamed.get(asked, asked)


def _on_grid(b: Builder, opened: OnnxModel, name: str, value: Value, order: ExportOrder) -> Value:
    """A value laid out as `name`, as (N, C, *grid), tokens folded."""
    axes = opened._batch_axes.get(name, 0), opened._axes.get(name)
    return heatmap.folded(b, heatmap.channels_first(b, value, *axes), order.folding)


def _gradient(
    joint: Joint, opened: OnnxModel, order: ExportOrder, output: str, logits: str
) -> onnx.ModelProto:  # fmt: skip
    b, raw = joint.builder, joint.value(logits)
    # In the output's own shape: a converted softmax works on the scores in another one.
    own = joint.value(output)
    scores = b.reshape(raw, own.shape, like=own)
    cotangent = Value(b, "cotangent", scores.dtype, scores.shape)
    seed = b.reshape(cotangent, raw.shape, like=raw)
    pair = (joint.value(joint.target), joint.differentiate(seed))
    a, g = (_on_grid(b, opened, joint.target, value, order) for value in pair)
    named = {"scores": b.cast(scores, TensorProto.FLOAT), "activations": a, "gradients": g}
    outputs = [joint.name(value, name) for name, value in named.items()]
    given = onnx.helper.make_tensor_value_info("cotangent", cotangent.dtype, cotangent.shape)
    return joint.finish([given], outputs)


def _heatmap(
    joint: Joint, opened: OnnxModel, order: ExportOrder, output: str, logits: str
) -> onnx.ModelProto:  # fmt: skip
    b, raw = joint.builder, joint.value(logits)
    scores = heatmap.flat_scores(b, raw)
    asked = Value(b, CLASS_INPUT, TensorProto.INT64, ("asked",))
    chosen = heatmap.chosen_class(b, scores, asked)
    pair = (
        joint.value(joint.target),
        joint.differentiate(heatmap.one_hot(b, scores, chosen, raw)),
    )
    a, g = (_on_grid(b, opened, joint.target, value, order) for value in pair)
    if a.rank not in (3, 4, 5):
        raise ExportError(
            f"layer {joint.target!r} makes {a.shape}: a heatmap file needs a grid of one to three "
            "axes"
        )
    floating = [
        joint.value(spec.name) for spec in opened.inputs
        if len(spec.shape) > 1 and opened._graph.type(spec.name).dtype in FLOATS
    ]  # fmt: skip
    cam = heatmap.raw_map(b, order.method, a, g, floating)
    picture = next((spec for spec in opened.inputs if len(spec.shape) == a.rank), None)
    if picture is not None:
        value, axes = joint.value(picture.name), heatmap.picture_axes(picture)
        size = b.vector([b.extent(value, place) for place in axes])
        cam = heatmap.resized(b, cam, size, tuple(value.shape[place] for place in axes))
    named = {"scores": scores, "class": chosen, "heatmap": heatmap.rescaled(b, cam)}
    outputs = [joint.name(value, name) for name, value in named.items()]
    # What else the model returns stays, so that the file can take the model's place.
    outputs += [value for value in joint.model.graph.output if value.name != logits]
    given = onnx.helper.make_tensor_value_info(CLASS_INPUT, TensorProto.INT64, ["asked"])
    top = numpy_helper.from_array(np.array([-1], np.int64), CLASS_INPUT)
    return joint.finish([given], outputs, [top] if order.class_input == "optional" else [])
