"""One node at a time: ours against central differences of the operator as ONNX Runtime has it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from gradcam_multi_onnx.autodiff.walk import differentiate
from gradcam_multi_onnx.graph import Graph, Type
from gradcam_multi_onnx.session import make_session
from gradcam_multi_onnx.source import open_source

from gradcam_multi.errors import ModelFileError

helper = onnx.helper


def random(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> np.ndarray:
    """Distinct values, evenly spread and shuffled: no ties, and none within 0.01 of a kink at 0."""
    n = int(np.prod(shape))
    values = np.linspace(low, high, n) + 0.013
    return np.random.default_rng(seed).permutation(values).reshape(shape)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node: `inputs` are given in order (None: absent); those at `wrt` are variable."""

    op: str
    inputs: tuple[Any, ...]
    opset: int = 18
    wrt: tuple[int, ...] = (0,)
    outputs: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)
    used: tuple[int, ...] = (0,)
    """Results on which the score depends."""
    fixed: bool = False
    """Whether the rule has to know the first extent."""
    domain: str = ""
    single: bool = False
    """Whether ONNX Runtime computes in float32 whatever it is given."""

    def __str__(self) -> str:
        rest = ",".join(f"{k}={v}" for k, v in self.attributes.items())
        shape = "x".join(map(str, np.shape(self.inputs[0])))
        return f"{self.op}-{self.opset}({shape};{rest};wrt{self.wrt})".replace(" ", "")


def case(op: str, *inputs: Any, opset: int = 18, wrt: tuple[int, ...] = (0,), outputs: int = 1,
         used: tuple[int, ...] = (0,), fixed: bool = False, domain: str = "",
         single: bool = False, **attributes: Any) -> Case:  # fmt: skip
    return Case(op, inputs, opset, wrt, outputs, attributes, used, fixed, domain, single)


def single(case: Case, dtype: Any, *, free: bool) -> onnx.ModelProto:
    """A model of the one node; with `free`, its variable inputs' first extents are symbols."""
    names = [f"in{i}" if value is not None else "" for i, value in enumerate(case.inputs)]
    results = [f"out{i}" for i in range(case.outputs)]
    attributes = {key: value for key, value in case.attributes.items() if value is not None}
    node = helper.make_node(case.op, names, results, "the node", domain=case.domain, **attributes)
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs, tensors = [], []
    for place, (name, value) in enumerate(zip(names, case.inputs, strict=True)):
        if place in case.wrt:
            extents: list[Any] = list(value.shape)
            if free and place == 0:
                extents[0] = "N"
            inputs.append(helper.make_tensor_value_info(name, code, extents))
        elif value is not None:
            array = value if value.dtype != np.float64 else value.astype(dtype)
            tensors.append(onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph([node], "single", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", case.opset)]
    if case.domain:
        opsets.append(helper.make_opsetid(case.domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


class Runner:
    """Forward and gradient of one case, in float64 where ONNX Runtime has the kernels."""

    def __init__(self, case: Case, dtype: Any, *, free: bool) -> None:
        self.case, self.dtype = case, dtype
        model = single(case, dtype, free=free)
        self.forward = make_session(model.SerializeToString())
        self.graph = Graph(open_source(model))
        if self.graph.type("out0").shape is None:
            self._learn()
        self.feeds = {f"in{i}": case.inputs[i].astype(dtype) for i in case.wrt}
        self.names = [f"out{i}" for i in case.used]

    def _learn(self) -> None:
        """Have types that ONNX does not infer told by a run."""
        feeds = {f"in{i}": self.case.inputs[i].astype(self.dtype) for i in self.case.wrt}
        made = [v.name for v in self.forward.get_outputs()]
        for name, array in zip(made, self.forward.run(made, feeds), strict=True):
            code = helper.np_dtype_to_tensor_dtype(array.dtype)
            self.graph.types[name] = Type(code, array.shape)

    def run(self, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
        return self.forward.run(names, feeds)

    def gradients(self, cotangents: list[np.ndarray]) -> dict[str, np.ndarray]:
        total: dict[str, np.ndarray] = {}
        for name, cotangent in zip(self.names, cotangents, strict=True):
            back = differentiate(self.graph, list(self.feeds), name)
            onnx.checker.check_model(back.model, full_check=True)
            values = {**self.feeds}
            made = [read for read in back.reads if read not in values]
            if made:
                values |= dict(zip(made, self.run(self.feeds, made), strict=True))
            feeds = {read: values[read] for read in back.reads}
            feeds[back.cotangent] = cotangent.astype(np.float64 if back.double else np.float32)
            session = make_session(back.model.SerializeToString())
            found = session.run(list(back.results.values()), feeds)
            for target, array in zip(back.results, found, strict=True):
                total[target] = total.get(target, 0) + array
        return total


def runner(case: Case, *, free: bool = False) -> Runner:
    """Prefer float64: ONNX Runtime has no float64 kernels of convolutions and some others."""
    if case.single:
        return Runner(case, np.float32, free=free)
    try:
        made = Runner(case, np.float64, free=free)
        made.run(made.feeds, made.names)
        made.gradients([np.zeros_like(a) for a in made.run(made.feeds, made.names)])
        return made
    except ModelFileError:
        # Whatever else was wrong with the model is wrong with its float32 form too.
        return Runner(case, np.float32, free=free)


def differences(made: Runner, cotangents: list[np.ndarray], step: float) -> dict[str, np.ndarray]:
    """Central differences in every element, the slow and obvious way."""

    def score(feeds: dict[str, np.ndarray]) -> float:
        found = made.run(feeds, made.names)
        return sum(
            float((a.astype(np.float64) * c).sum()) for a, c in zip(found, cotangents, strict=True)
        )

    result = {}
    for name, array in made.feeds.items():
        gradient = np.zeros(array.shape)
        for index in np.ndindex(array.shape):
            changed = []
            for sign in (1, -1):
                moved = array.copy()
                moved[index] += sign * step
                changed.append((score({**made.feeds, name: moved}), float(moved[index])))
            gradient[index] = (changed[0][0] - changed[1][0]) / (changed[0][1] - changed[1][1])
        result[name] = gradient
    return result


def check_case(case: Case, *, free: bool) -> None:
    """Compare ours with differences, with a random cotangent."""
    made = runner(case, free=free)
    random_state = np.random.default_rng(1)
    shapes = [a.shape for a in made.run(made.feeds, made.names)]
    cotangents = [random_state.standard_normal(s) for s in shapes]
    ours = made.gradients(cotangents)
    # float64: the step's square and rounding over the step are both below 1e-8. float32: smaller
    # than the distance to any kink, so piecewise linear operators (convolution, pooling) have only
    # rounding, 1e-6 of sums of some 100 terms over the step.
    double = made.dtype == np.float64
    slow = differences(made, cotangents, 1e-4 if double else 4e-3)
    tolerance = 1e-6 if double else 5e-3
    for name, expected in slow.items():
        got = ours.get(name, np.zeros_like(expected))
        assert got.shape == expected.shape
        scale = max(np.abs(expected).max(), 1.0)
        np.testing.assert_allclose(got, expected, atol=tolerance * scale, rtol=0)
