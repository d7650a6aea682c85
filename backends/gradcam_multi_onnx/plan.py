"""What is prepared once for some layers: a forward session and one gradient graph per output."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gradcam_multi.errors import GradcamError, UnsupportedError
from gradcam_multi_onnx.autodiff.parts import take_parts
from gradcam_multi_onnx.autodiff.registry import FreeExtent, Registry
from gradcam_multi_onnx.autodiff.walk import Gradient, differentiate
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.replay import Tail
from gradcam_multi_onnx.session import (
    Forward,
    Session,
    as_float,
    completed_session,
    one_line,
    run,
    threads_for,
)
from gradcam_multi_onnx.skeleton import SMALL

_INCONSISTENT = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, TypeError,
    ValueError,
)  # fmt: skip

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Failure:
    """Why an output has no gradient; kept as data, since a kept exception keeps its frames."""

    kind: type[GradcamError]
    message: str

    def error(self) -> GradcamError:
        """Return a fresh exception."""
        return self.kind(self.message)


class Backward:
    """A gradient graph and, once it is first run, its session.

    It reads `whole` values of the forward run, and `parts` of others, by its own name for them.
    """

    def __init__(self, graph: Graph, gradient: Gradient) -> None:
        self.gradient = gradient
        self.parts = take_parts(graph, gradient.model)
        self._source = graph.source.as_frugal(bool(self.parts))
        self.whole = set(gradient.reads) - {part.source for part in self.parts.values()}
        _check(gradient)

    @cached_property
    def _session(self) -> Session:
        lent, weights = self.gradient.lent.values(), self.gradient.weights.values()
        threads = threads_for(self.gradient.model.graph, (*lent, *weights))
        made = completed_session(self.gradient.model, self.gradient.weights, self._source, threads)
        self.gradient = replace(self.gradient, weights={})  # the session has its own
        return made

    def open(self) -> None:
        """Open the session now rather than with the first run."""
        _ = self._session

    def __call__(self, cotangent: NDArray[Any], values: Values) -> dict[str, NDArray[Any]]:
        """Return gradients by target, absent where nothing flows."""
        dtype = np.float64 if self.gradient.double else np.float32
        feeds = {name: as_float(values[name]) for name in self.whole}
        feeds |= {name: as_float(part.of(values)) for name, part in self.parts.items()}
        feeds |= self.gradient.lent
        feeds[self.gradient.cotangent] = np.asarray(cotangent, dtype=dtype, order="C")
        results = self.gradient.results
        found = run(self._session, feeds, results.values())
        return {target: found[name] for target, name in results.items()}


def _check(gradient: Gradient) -> None:
    """Raise UnsupportedError where a gradient graph is not sound ONNX, its types included."""
    model = gradient.model
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    weights = {}  # by their type alone: the checker copies all
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= SMALL:
            light.graph.initializer.add().CopyFrom(tensor)
        else:
            weights[tensor.name] = tensor.data_type, tensor.dims
    for name, array in gradient.weights.items():
        weights[name] = onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
    listed = {value.name for value in model.graph.input}
    light.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, *kind)
        for name, kind in weights.items() if name not in listed
    )  # fmt: skip
    try:
        onnx.checker.check_model(light, full_check=True)
    except Exception as error:  # native code: its classes have no common root
        raise UnsupportedError(
            f"the gradient graph is not valid ONNX: {one_line(error)}; report the model"
        ) from error


class Plan:
    """Forward with everything kept that the gradients read, and the gradients themselves.

    `targets` are value names; `logits` maps outputs to the values that hold their logits. Raises
    FreeExtent where a rule has to know an extent that the graph leaves free. `registry` has the
    rules where these are not the usual ones.
    """

    pulls: tuple[Backward, ...] = ()
    """Further gradients, between values before the logits."""
    kept: Collection[str] = ()
    """Further values that the forward run keeps."""

    def __init__(
        self, graph: Graph, targets: tuple[str, ...], logits: Mapping[str, str],
        registry: Registry | None = None,
    ) -> None:  # fmt: skip
        self.graph, self.targets, self.logits = graph, targets, dict(logits)
        self._registry = registry
        self.backward = {output: self._differentiate(value) for output, value in logits.items()}
        both = (*self.backward.values(), *self.pulls)
        every = [each for each in both if isinstance(each, Backward)]
        self.lent = {name: array for e in every for name, array in e.gradient.lent.items()}
        read = {name for each in every for name in each.whole}
        whole = {*read, *targets, *logits.values(), *self.kept} & set(graph.producer)
        parts = {part.name: part for each in every for part in each.parts.values()}
        cut = {name: part.nodes() for name, part in parts.items() if part.source not in whole}
        nodes = [node for each in cut.values() for node in each]
        self.forward = Forward(graph.source, logits, whole | set(cut), self.lent, nodes)
        self.checked = False
        self._tails: dict[str, tuple[Tail, Forward | None]] = {}

    def _differentiate(self, value: str) -> Backward | Failure:
        try:
            return Backward(
                self.graph,
                differentiate(self.graph, self.targets, value, self._registry, referenced=True),
            )
        except FreeExtent:
            raise
        except GradcamError as error:
            return Failure(type(error), str(error))
        except _INCONSISTENT as error:
            # A rule trusts what operators promise each other; a damaged model may not keep it.
            return Failure(
                UnsupportedError,
                f"the gradient of {value!r} cannot be built ({type(error).__name__}: "
                f"{one_line(error)}): the operators before it do not fit together; check the model "
                "with onnx.checker, and report it where it is sound",
            )

    @property
    def refused(self) -> bool:
        """Whether an operator on the way to an output cannot be differentiated."""
        failures = (each for each in self.backward.values() if isinstance(each, Failure))
        return any(issubclass(failure.kind, UnsupportedError) for failure in failures)

    def tail(self, target: str) -> tuple[Tail, Forward | None]:
        """Return what runs forward from a target, and what tells it the values beside the target.

        The second is None where the forward run keeps them anyway.
        """
        if target not in self._tails:
            moving = self.graph.dependents([target])
            tail = Tail(self.graph, target, sorted(set(self.logits.values()) & moving))
            self._tails[target] = tail, self.beside(tail.boundary)
        return self._tails[target]

    def beside(self, names: Iterable[str]) -> Forward | None:
        """Return a session for those of some values that the forward run does not keep."""
        own = set(self.forward.names)
        extra = [name for name in names if name in self.graph.producer and name not in own]
        return Forward(self.graph.source, (), extra, self.lent) if extra else None


def make_plan(
    graph: Graph, targets: tuple[str, ...], logits: Mapping[str, str], sized: Callable[[], Graph],
    registry: Registry | None = None, kind: Callable[..., Plan] = Plan,
) -> tuple[Plan, bool]:  # fmt: skip
    """Return a plan, and whether it holds for the inputs' shapes only.

    The general one is tried first. `sized` returns the graph for the inputs' shapes, `kind` makes a
    plan.
    """
    try:
        plan = kind(graph, targets, logits, registry)
    except FreeExtent:
        try:
            return kind(sized(), targets, logits, registry), True
        except FreeExtent as error:
            raise UnsupportedError(str(error)) from error
    if not plan.refused:
        return plan, False
    try:
        other = kind(sized(), targets, logits, registry)
    except FreeExtent:
        return plan, False
    return (plan, False) if other.refused else (other, True)
