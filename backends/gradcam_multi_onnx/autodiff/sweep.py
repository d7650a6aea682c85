"""One step of the reverse walk: from a node's results to its inputs."""

from collections.abc import Iterable
from functools import reduce
from operator import add

from onnx import NodeProto

from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.lowering import (
    branch_body,
    function_body,
    has_function,
    lowered,
    read_by,
)
from gradcam_multi_onnx.autodiff.registry import (
    FIRST_OPSET,
    ZERO,
    Entry,
    FreeExtent,
    Refusal,
    Registry,
)
from gradcam_multi_onnx.autodiff.scope import Scope
from gradcam_multi_onnx.autodiff.site import Forward, Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Graph, domain_of

_DEPTH = 8  # of operators taken apart inside operators taken apart
_QUANTISERS = {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QuantizeLinear"}

Cotangents = tuple[Value | None, ...]


def carriers(graph: Graph, registry: Registry, targets: Iterable[str]) -> set[str]:
    """Return the integer values that stand for floats: quantised ones, moved about or not."""
    found = {name for name in targets if not graph.type(name).floating}
    for node in graph.nodes:
        domain = domain_of(node.domain)
        entry = registry.find(domain, node.op_type, graph.opset(node))
        made = node.op_type in _QUANTISERS or node.op_type.startswith("QLinear")
        moved = entry is not None and entry.quantised and not found.isdisjoint(node.input)
        if made or moved:
            # Of several results the later ones are indices or settings, but for parts of a split.
            results = node.output if node.op_type == "Split" else node.output[:1]
            found |= {name for name in results if name and not graph.type(name).floating}
    return found


class Sweep:
    """The cotangents on their way.

    `path` are the values between targets and output, `carriers` integers that stand for floats;
    both grow by the values inside of operators that are taken apart.
    """

    def __init__(
        self, builder: Builder, registry: Registry, path: set[str], carriers: set[str],
        targets: frozenset[str],
    ) -> None:  # fmt: skip
        self._builder, self._registry, self._targets = builder, registry, targets
        self._path, self._carriers = path, carriers
        self.arrived: dict[str, list[Value]] = {}

    def cotangents(self, graph: Forward, node: NodeProto) -> Cotangents:
        """Return what has arrived at a node's results."""
        return tuple(self.cotangent(graph, name) for name in node.output)

    def cotangent(self, graph: Forward, name: str) -> Value | None:
        """Return the sum of what has arrived at a value.

        Rules may answer with an extent of 1 where a gradient is the same along an axis: mostly
        another one is added to it, which spreads it for nothing. Otherwise it is spread here.
        """
        total = reduce(add, self.arrived.pop(name)) if self.arrived.get(name) else None
        shape = graph.type(name).shape
        if total is None or shape is None or total.rank != len(shape):
            return total
        if not any(n == 1 != wanted for n, wanted in zip(total.shape, shape, strict=True)):
            return total
        return self._builder.expand(total, self._builder.source(name, graph.type(name)))

    def _passed(self, name: str) -> bool:
        return name in self._path and name not in self._targets

    def back(self, graph: Forward, node: NodeProto, cotangents: Cotangents, depth: int = 0) -> None:
        """Hand a node's cotangents on to its inputs. Raises Refusal."""
        if depth > _DEPTH:
            raise Refusal("its parts are never standard operators")
        domain, opset = domain_of(node.domain), graph.opset(node)
        entry = self._registry.find(domain, node.op_type, opset)
        if entry is None:
            older = opset < FIRST_OPSET and not node.domain
            if older:
                raise Refusal(f"opsets before {FIRST_OPSET} have no rules")
            if not has_function(node, opset):
                raise Refusal("it has no rule")
            self._inside(graph, node, cotangents, None, depth)
        elif entry.reason is not None:
            if node.op_type != "If" or domain or not graph.constant(node.input[0]):
                raise Refusal(entry.reason)
            self._inside(graph, node, cotangents, None, depth)
        elif entry.lower is not None:
            _whitelist(entry, node)
            self._inside(graph, node, cotangents, entry, depth)
        elif entry.rule is not None:
            _whitelist(entry, node)
            self._apply(graph, node, cotangents, entry)

    def _inside(
        self, graph: Forward, node: NodeProto, cotangents: Cotangents, entry: Entry | None,
        depth: int,
    ) -> None:  # fmt: skip
        if entry is not None and entry.lower is not None:
            body = lowered(graph, node, entry.lower)
        elif node.op_type == "If":
            body = branch_body(graph, node)
        else:
            body = function_body(graph, node)
        scope = Scope(graph, self._builder, node, body)
        for name, g in zip(node.output, cotangents, strict=True):
            if g is not None:
                self.arrived.setdefault(name, []).append(g)
        for part in scope.nodes:
            if not self._path.isdisjoint(read_by(part)):
                self._path.update(name for name in part.output if name)
        self._carriers |= {
            name for part in scope.nodes if part.op_type in _QUANTISERS for name in part.output[:1]
        }
        for part in reversed(scope.nodes):
            arrived = self.cotangents(scope, part)
            if any(g is not None for g in arrived) and not self._path.isdisjoint(read_by(part)):
                try:
                    self.back(scope, part, arrived, depth + 1)
                except FreeExtent:
                    raise
                except Refusal as error:
                    raise Refusal(f"inside it, {part.op_type}: {error}") from error

    def _apply(self, graph: Forward, node: NodeProto, cotangents: Cotangents, entry: Entry) -> None:
        first = cotangents[0]
        if not entry.several and any(g is not None for g in cotangents[1:]):
            raise Refusal("the score depends on more than its first result")
        wanted = frozenset(
            i for i, name in enumerate(node.input)
            if name in self._path and (graph.type(name).floating or name in self._carriers)
        )  # fmt: skip
        if not wanted:
            return
        if not entry.quantised and any(node.input[i] in self._carriers for i in wanted):
            raise Refusal("it computes with quantised integers")
        site = Site(graph, self._builder, node, wanted, cotangents, self._passed)
        answers = entry.rule(site, first)  # type: ignore[misc, arg-type]  # several read them all
        for place, (name, answer) in enumerate(zip(node.input, answers, strict=True)):
            if place in wanted and answer is not ZERO:
                target = site.input(place)
                g = self._builder.sum_to(answer, target)
                if graph.type(name).floating:
                    g = self._builder.cast(g, target.dtype)
                self.arrived.setdefault(name, []).append(g)


def _whitelist(entry: Entry, node: NodeProto) -> None:
    unknown = sorted({a.name for a in node.attribute} - entry.attributes)
    if unknown:
        raise Refusal(f"its attribute {' and '.join(map(repr, unknown))} is not understood")
