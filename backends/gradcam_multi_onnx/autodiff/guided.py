"""Guided backpropagation (Springenberg 2015, arXiv:1412.6806): ReLU hands back positive gradients
only, through positive activations.

The rule is that of a registry, so that a graph differentiated with another one knows nothing of it.
"""

from collections.abc import Iterable
from dataclasses import replace

from onnx import NodeProto

from gradcam_multi_onnx.autodiff.registry import Answers, Entry, Registry, Rule
from gradcam_multi_onnx.autodiff.rules import REGISTRY
from gradcam_multi_onnx.autodiff.site import Forward, Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import domain_of, subgraphs


class Guided(Registry):
    """All rules that there are, those of ReLU applied to the positive part of the cotangent."""

    def find(self, domain: str, op: str, opset: int) -> Entry | None:
        """Return the entry for an operator as read under an opset, or None where it is missing."""
        entry = REGISTRY.find(domain, op, opset)
        if domain or op not in ("Relu", "Clip") or entry is None or entry.rule is None:
            return entry
        return replace(entry, rule=_positive(entry.rule))


GUIDED = Guided()


def _positive(rule: Rule) -> Rule:
    def guided(n: Site, g: Value) -> Answers:
        return rule(n, n.b.map("Relu", g) if _is_relu(n.graph, n.node) else g)

    return guided


def _is_relu(graph: Forward, node: NodeProto) -> bool:
    """Whether a node is ReLU, or the clipping at 0 and 6 as which ReLU6 is exported.

    One at 0 alone is not taken for ReLU: variances are kept positive by it.
    """
    if node.op_type == "Relu":
        return not domain_of(node.domain)
    if node.op_type != "Clip" or domain_of(node.domain):
        return False
    return _bound(graph, node, 1, "min") == 0 and _bound(graph, node, 2, "max") == 6


def _bound(graph: Forward, node: NodeProto, place: int, name: str) -> float | None:
    """Return a bound of a Clip, None where it is left out or only a run can tell it."""
    if graph.opset(node) < 11:
        return next((float(a.f) for a in node.attribute if a.name == name), None)
    source = node.input[place] if len(node.input) > place else ""
    if not source or not graph.constant(source):
        return None
    return float(graph.arrays([source])[source].reshape(-1)[0])


def rectifies(graph: Forward, nodes: Iterable[NodeProto]) -> bool:
    """Whether there is a ReLU among some nodes: as one, fused to another, or in a branch."""
    return any(
        _is_relu(graph, node)
        or any(a.name == "activation" and a.s == b"Relu" for a in node.attribute)
        # Constants of a branch are its own, so that a clipping there is taken at its word.
        or any(inner.op_type in ("Relu", "Clip") for b in subgraphs(node) for inner in b.node)
        for node in nodes
    )
