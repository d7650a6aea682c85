"""What is prepared once for some layers: a forward session and one gradient graph per output."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import GradcamError, UnsupportedError
from gradcam_multi_onnx.autodiff.registry import FreeExtent
from gradcam_multi_onnx.autodiff.walk import Gradient, differentiate
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.replay import Tail
from gradcam_multi_onnx.session import Forward, Session, as_float, make_session, run

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
    """A gradient graph and, once it is first run, its session."""

    def __init__(self, graph: Graph, gradient: Gradient) -> None:
        self.gradient, self._source = gradient, graph.source

    @cached_property
    def _session(self) -> Session:
        return make_session(self.gradient.model.SerializeToString(), self._source.providers)

    def __call__(self, cotangent: NDArray[Any], values: Values) -> dict[str, NDArray[Any]]:
        """Return gradients by target, absent where nothing flows."""
        dtype = np.float64 if self.gradient.double else np.float32
        feeds = {name: as_float(values[name]) for name in self.gradient.reads}
        feeds[self.gradient.cotangent] = np.asarray(cotangent, dtype=dtype, order="C")
        results = self.gradient.results
        found = run(self._session, feeds, results.values())
        return {target: found[name] for target, name in results.items()}


class Plan:
    """Forward with everything kept that the gradients read, and the gradients themselves.

    `targets` are value names; `logits` maps outputs to the values that hold their logits. Raises
    FreeExtent where a rule has to know an extent that the graph leaves free.
    """

    def __init__(self, graph: Graph, targets: tuple[str, ...], logits: Mapping[str, str]) -> None:
        self.graph, self.targets, self.logits = graph, targets, dict(logits)
        self.backward = {output: self._differentiate(value) for output, value in logits.items()}
        read = {
            name for each in self.backward.values() if isinstance(each, Backward)
            for name in each.gradient.reads
        }  # fmt: skip
        extra = (read | set(targets) | set(logits.values())) & set(graph.producer)
        self.forward = Forward(graph.source, logits, extra)
        self.checked = False
        self._tails: dict[str, tuple[Tail, Forward | None]] = {}

    def _differentiate(self, value: str) -> Backward | Failure:
        try:
            return Backward(self.graph, differentiate(self.graph, self.targets, value))
        except FreeExtent:
            raise
        except GradcamError as error:
            return Failure(type(error), str(error))

    def tail(self, target: str) -> tuple[Tail, Forward | None]:
        """Return what runs forward from a target, and what tells it the values beside the target.

        The second is None where only inputs of the model are needed.
        """
        if target not in self._tails:
            moving = self.graph.dependents([target])
            tail = Tail(self.graph, target, sorted(set(self.logits.values()) & moving))
            self._tails[target] = tail, beside(self.graph, tail.boundary)
        return self._tails[target]


def beside(graph: Graph, names: tuple[str, ...]) -> Forward | None:
    """Return a forward session for some values of the graph, None where all are inputs."""
    made = [name for name in names if name in graph.producer]
    return Forward(graph.source, (), made) if made else None


def make_plan(
    graph: Graph, targets: tuple[str, ...], logits: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[Plan, bool]:  # fmt: skip
    """Return a plan, and whether it holds for the inputs' shapes only.

    The general one is tried first.
    """
    try:
        return Plan(graph, targets, logits), False
    except FreeExtent:
        try:
            return Plan(graph.with_shapes(shapes), targets, logits), True
        except FreeExtent as error:
            raise UnsupportedError(str(error)) from error
