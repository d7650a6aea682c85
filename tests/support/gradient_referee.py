"""Gradients of a whole ONNX network against a framework's own, layer by layer.

The framework says what two feature maps and the input are, and what its gradients there are; the
same tensors are found in the ONNX graph by their values, since exporters rename and fold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.plugin import gradcam_multi_open
from gradcam_multi_onnx.source import open_source
from numpy.typing import NDArray

Floats = NDArray[np.floating]

PLACES = ("early", "last", "input")
BATCHES = (1, 3)
TOLERANCE = 1e-3
"""Of the largest gradient; a wrong rule is off by the order of one, float32 by about 1e-6."""

_SAME = 1e-4  # of the largest activation: rounding of a different order of sums, not other tensors


@dataclass(frozen=True)
class Reference:
    """What a framework computed: outputs in order, then (activation, gradient) per place."""

    outputs: Sequence[Floats]
    places: Mapping[str, tuple[Floats, Floats]]


Referee = Callable[[Floats, Callable[[int, Floats], Floats], Sequence[str | None]], Reference]
"""Takes inputs, what makes the cotangent of an output, and the activation that each output ends
in, behind which its logits are to be differentiated."""


@dataclass(frozen=True)
class Finding:
    """What a network's gradients showed: the worst error by place, and the operators passed."""

    errors: Mapping[str, float]
    operators: tuple[str, ...]


def compare(
    data: bytes, referee: Referee, inputs: Floats, *, seed: int = 0, model: Any = None
) -> Finding:
    """Return the largest differences from the referee, relative to its largest gradient.

    `inputs` holds as many items as the largest batch. With one item the cotangent of a class
    output picks the top class, as Grad-CAM does; with several it is random. `model` is given where
    it is open already.
    """
    model = model or gradcam_multi_open(data)
    activations = [spec.activation for spec in model.outputs]
    names = {}
    worst = dict.fromkeys(PLACES, 0.0)
    for batch in sorted(BATCHES, reverse=True):
        x = inputs[:batch]
        made = Cotangents(np.random.default_rng(seed + batch), activations)
        reference = referee(x, made, activations)
        if not names:
            names = located(data, model.inputs[0].name, x, reference)
        with model.trace(x, [names[place] for place in PLACES]) as trace:
            for spec, output in zip(model.outputs, reference.outputs, strict=True):
                _same_outputs(trace.outputs[spec.name], output)
            given = {
                spec.name: made.used[index].astype(np.float32)
                for index, spec in enumerate(model.outputs)
            }
            gradients = trace.vjp(given)
            for place, kept, gradient in zip(PLACES, trace.activations, gradients, strict=True):
                activation, expected = reference.places[place]
                order = alignment(kept, activation)
                assert order is not None, f"{place}: the activation differs in batch {batch}"
                error = difference(gradient, expected.transpose(order))
                worst[place] = max(worst[place], error)
    return Finding(worst, operators(data, names["input"], [s.name for s in model.outputs]))


class Cotangents:
    """Makes and remembers one cotangent per output."""

    def __init__(self, random: np.random.Generator, activations: Sequence[str | None]) -> None:
        self.random, self.activations = random, activations
        self.used: dict[int, Floats] = {}

    def __call__(self, index: int, output: Floats) -> Floats:
        if len(output) == 1 and output.ndim == 2:
            made = np.eye(output.shape[1])[output.argmax(1)]
        else:
            made = self.random.standard_normal(output.shape)
        if self.activations[index] == "softmax":
            # The logits are known up to a constant, which such a cotangent does not see.
            axis = -1 if output.shape[-1] > 1 else 1
            made = made - made.mean(axis, keepdims=True)
        self.used[index] = made
        return made


def difference(actual: Floats, expected: Floats) -> float:
    """Return the largest difference, relative to the largest expected value."""
    assert actual.shape == expected.shape, f"{actual.shape}, expected {expected.shape}"
    scale = float(np.abs(expected).max())
    assert np.isfinite(scale), "the gradient is not finite"
    assert scale > 0, "a gradient of zeros proves nothing"
    return float(np.abs(actual - expected).max()) / scale


def alignment(actual: Floats, expected: Floats) -> tuple[int, ...] | None:
    """Return the order of axes in which `expected` is `actual`, or None."""
    axes = tuple(range(expected.ndim))
    orders = {axes, (0, *axes[2:], 1), (0, axes[-1], *axes[1:-1])} if len(axes) > 2 else {axes}
    for order in sorted(orders):
        moved = expected.transpose(order)
        if actual.shape == moved.shape:
            scale = max(float(np.abs(moved).max()), 1e-30)
            if float(np.abs(actual - moved).max()) <= _SAME * scale:
                return order
    return None


def located(data: bytes, first: str, x: Floats, reference: Reference) -> dict[str, str]:
    """Return the ONNX value of every place: the first in the graph that has its values."""
    values = every_value(data, {first: x[:1]})  # a model may be fixed to one item
    found = {"input": first}
    for place in ("early", "last"):
        activation = reference.places[place][0][:1]
        names = (n for n, value in values.items() if alignment(value, activation) is not None)
        name = next(names, None)
        assert name is not None, f"no value of the exported graph equals the {place} feature map"
        found[place] = name
    return found


def every_value(data: bytes, feeds: Mapping[str, Floats]) -> dict[str, Floats]:
    """Run a model and return every floating value of its graph, in execution order."""
    model = onnx.load_from_string(data)
    own = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name]
    for name in names:
        if name not in own:
            model.graph.output.add().name = name
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = zip(names, session.run(names, dict(feeds)), strict=True)
    return {n: v for n, v in found if isinstance(v, np.ndarray) and v.dtype.kind == "f"}


def operators(data: bytes, source: str, outputs: Sequence[str]) -> tuple[str, ...]:
    """Return the operators on floating values between the input and the outputs."""
    graph = Graph(open_source(data))
    way = graph.dependents([source]) & graph.ancestors(outputs)
    found = {
        node.op_type
        for node in graph.nodes
        for name in node.output
        if name in way and graph.type(name).floating
    }
    return tuple(sorted(found))


def _same_outputs(actual: Floats, expected: Floats) -> None:
    scale = float(np.abs(expected).max())
    worst = float(np.abs(actual - expected).max()) / scale
    assert worst < _SAME, f"the exported model itself differs: {worst:.1e} of the largest output"
