"""The onnx package's own node tests as gradient checks: ours against directional differences."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from gradcam_multi_onnx.autodiff.registry import FreeExtent
from gradcam_multi_onnx.autodiff.walk import differentiate
from gradcam_multi_onnx.graph import Graph, Type
from gradcam_multi_onnx.session import make_session
from gradcam_multi_onnx.source import open_source
from onnx import TensorProto, numpy_helper

from gradcam_multi.errors import GradcamError, LayerNotOnPathError

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16}
SETTINGS = {
    "AffineGrid": (1,), "Dropout": (1,), "Resize": (1, 2), "Upsample": (1,),
    "DequantizeLinear": (1, 2), "QuantizeLinear": (1,), "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6), "Range": (0, 1, 2),
}  # fmt: skip
"""Floating inputs that choose a shape or a scale rather than carry values."""

SINGLE = {
    "GroupNormalization": "computes in float32 whatever it is given",
    "Resize": "its scales are float32",
    "Shrink": "computes in float32 whatever it is given",
    "Upsample": "its scales are float32",
}
"""Operators that are not run in float64."""

_LENGTHS = 6
"""The place of Attention's lengths of the caches."""


@dataclass(frozen=True)
class Verdict:
    """What came out for one case: passed, refused, flat, failed, or not run at all."""

    kind: str
    why: str = ""


def cases() -> Iterator[Any]:
    """Yield the cases with a floating input and a floating output."""
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        if case.model is not None:
            graph = case.model.graph
            if any(map(_floating, graph.input)) and any(map(_floating, graph.output)):
                yield case


def _floating(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in FLOATS


def prepared(case: Any, *, double: bool) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model whose other inputs are constants, and the floating inputs."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    inputs, _ = case.data_sets[0]
    graph, feeds = model.graph, {}
    settings = {
        node.input[place] for node in graph.node for place in SETTINGS.get(node.op_type, ())
        if place < len(node.input)
    }  # fmt: skip
    values = list(graph.input)
    del graph.input[:]
    for value, array in zip(values, inputs, strict=True):
        if _floating(value) and value.name not in settings:
            feeds[value.name] = np.asarray(array)
            graph.input.append(value)
        else:
            graph.initializer.append(numpy_helper.from_array(np.asarray(array), value.name))
    if double:
        _doubled(graph)
        feeds = {name: np.asarray(array, np.float64) for name, array in feeds.items()}
    return model, feeds


def _doubled(graph: onnx.GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if _floating(value):
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for node in graph.node:
        if node.op_type in SINGLE:
            raise ValueError(f"{node.op_type}: {SINGLE[node.op_type]}")
        if node.op_type == "Attention" and len(node.input) > _LENGTHS:
            if any(attribute.name == "is_causal" for attribute in node.attribute):
                raise ValueError(
                    "Attention: in float64 ONNX Runtime takes it apart as it was first "
                    "defined, with another causal mask for caches than its kernel has"
                )
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "stash_type") and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t"):
                _double_tensor(attribute.t)
            if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                array = np.array(onnx.helper.get_attribute_value(attribute), np.float64)
                attribute.Clear()
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(numpy_helper.from_array(array))
            if attribute.HasField("g"):
                _doubled(attribute.g)


def _double_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in FLOATS:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("f8"), name))


class Runner:
    """One prepared case: its score is a random projection of its floating outputs."""

    def __init__(self, case: Any, *, double: bool) -> None:
        self.model, self.feeds = prepared(case, double=double)
        self.double = double
        self.session = make_session(self.model.SerializeToString())
        self.outputs = [v.name for v in self.model.graph.output if _floating(v)]
        self.random = np.random.default_rng(0)
        self.here = self.run(self.feeds)
        # Where masks leave (nearly) infinite results, there is nothing to differentiate.
        self.cotangents = [
            np.where(np.abs(a) < 1e30, self.random.standard_normal(a.shape), 0) for a in self.here
        ]

    def run(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Return the floating outputs."""
        return list(self.session.run(self.outputs, feeds))

    def score(self, feeds: dict[str, np.ndarray]) -> float:
        """Return the projection."""
        found = zip(self.run(feeds), self.cotangents, strict=True)
        return sum(float((a[c != 0].astype(np.float64) * c[c != 0]).sum()) for a, c in found)

    def gradients(self) -> dict[str, np.ndarray]:
        """Return ours, by input; raises what the differentiator raises."""
        graph, total = Graph(open_source(self.model)), {}
        self._learn(graph)
        outside = 0
        for name, cotangent in zip(self.outputs, self.cotangents, strict=True):
            try:
                back = differentiate(graph, list(self.feeds), name)
            except LayerNotOnPathError:
                outside += 1
                continue
            onnx.checker.check_model(back.model, full_check=True)
            values = dict(self.feeds)
            made = [read for read in back.reads if read not in values]
            if made:
                found = self._run_for(made)
                values |= dict(zip(made, found, strict=True))
            feeds = {
                read: a.astype(np.float32) if a.dtype == np.float16 else a
                for read, a in values.items() if read in back.reads
            }  # fmt: skip
            dtype = np.float64 if back.double else np.float32
            feeds[back.cotangent] = np.asarray(cotangent, dtype)
            session = make_session(back.model.SerializeToString())
            arrays = session.run(list(back.results.values()), feeds)
            for target, array in zip(back.results, arrays, strict=True):
                total[target] = total.get(target, 0) + array.astype(np.float64)
        if outside == len(self.outputs):
            raise LayerNotOnPathError("no output depends on any input")
        return total

    def _learn(self, graph: Graph) -> None:
        """Have values of unknown rank told by a run, as the adapter does."""
        unknown = [name for name in graph.producer if graph.type(name).shape is None]
        if unknown:
            for name, array in zip(unknown, self._run_for(unknown), strict=True):
                code = onnx.helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype)
                graph.types[name] = Type(code, np.shape(array))

    def _run_for(self, names: list[str]) -> list[np.ndarray]:
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        return list(make_session(model.SerializeToString()).run(names, self.feeds))

    def change(self, direction: dict[str, np.ndarray], step: float) -> float:
        """Return the central difference quotient along a direction."""

        def at(move: float) -> float:
            moved = {n: np.asarray(a + move * direction[n], a.dtype) for n, a in self.feeds.items()}
            return self.score(moved)

        return (at(step) - at(-step)) / (2 * step)


def judge(case: Any) -> Verdict:
    """Check one case, in float64 where ONNX Runtime has the kernels."""
    runner = None
    for double in (True, False):
        try:
            runner = Runner(case, double=double)
            break
        except Exception as error:
            why = " ".join(str(error).split())
    if runner is None:
        return Verdict("not run", why)
    try:
        ours = runner.gradients()
    except LayerNotOnPathError:
        ours = {}
    except (GradcamError, FreeExtent) as error:
        return Verdict("refused", str(error))
    except Exception as error:
        return Verdict("failed", f"{type(error).__name__}: {error}")
    return _compared(runner, ours)


def _compared(runner: Runner, ours: dict[str, np.ndarray]) -> Verdict:
    # float64: the step's square against rounding over the step, both near 1e-9. Single precision:
    # rounding of 1e-7 (half: 1e-3) of the score over steps of 1e-2.
    half = any(a.dtype == np.float16 for a in (*runner.feeds.values(), *runner.here))
    tolerance = 1e-5 if runner.double else 5e-2 if half else 5e-3
    steps = (1e-5, 1e-6, 1e-4) if runner.double else (1e-2, 3e-3, 3e-2, 1e-3, 1e-1)
    direction = {n: runner.random.standard_normal(a.shape) for n, a in runner.feeds.items()}
    expected = sum(float((ours[n] * direction[n]).sum()) for n in ours)
    size = float(np.sqrt(sum((g**2).sum() for g in ours.values())))
    if not np.isfinite(expected):
        return Verdict("failed", f"ours is {expected}")
    changes = [runner.change(direction, step) for step in steps]
    error = min(abs(change - expected) for change in changes)
    if not error <= tolerance * max(size, 1e-3):
        return Verdict("failed", f"ours {expected:.6g}, differences {changes}")
    return Verdict("passed" if size > 0 else "flat")
