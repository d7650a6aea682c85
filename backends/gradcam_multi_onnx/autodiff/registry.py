"""Which operators can be differentiated, and how.

A table of rules, of operators without gradient, and of refusals with their reason. An operator
that is in none of them is missing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from gradcam_multi_onnx.autodiff.lowering import Parts
    from gradcam_multi_onnx.autodiff.site import Site
    from gradcam_multi_onnx.autodiff.values import Value


class _Zero(Enum):
    ZERO = "zero"


ZERO = _Zero.ZERO
"""The answer of a rule for an input to which no gradient flows."""

Answer: TypeAlias = "Value | _Zero"
Answers: TypeAlias = "Sequence[Value | _Zero]"
Lowering: TypeAlias = "Callable[[Parts], None]"
"""Writes standard operators that do what the node does."""
Rule: TypeAlias = "Callable[[Site, Value], Sequence[Value | _Zero]]"
"""Given the node and the cotangent of its first result, return one answer per input."""

FIRST_OPSET = 7  # what ONNX Runtime itself promises to run


class Refusal(Exception):
    """A rule's reason for not differentiating a node; the walk adds where and what."""


class FreeExtent(Refusal):
    """A rule needs an extent that the model leaves free; the inputs' shapes may tell it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one operator from opset `since` on, up to `until` where given.

    One of: a rule, a lowering, a reason to refuse, or none: an operator whose results do not change
    with infinitesimal changes of its inputs. `attributes` are all that the rule understands, those
    without influence on the gradient too; a node with any other is refused. `several` rules read
    the cotangents of all results. `quantised` rules also hold for integers that stand for floats.
    """

    op: str
    domain: str = ""
    since: int = FIRST_OPSET
    until: int | None = None
    rule: "Rule | None" = None
    reason: str | None = None
    attributes: frozenset[str] = frozenset()
    several: bool = False
    lower: "Lowering | None" = None
    quantised: bool = False

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        if self.rule is not None:
            return "rule"
        if self.lower is not None:
            return "lowered"
        return "no gradient" if self.reason is None else "refused"


class Registry:
    """Entries by domain and operator."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], list[Entry]] = {}

    def add(self, entry: Entry) -> None:
        """Add an entry; it goes before older ones for the same operator and opset."""
        self._entries.setdefault((entry.domain, entry.op), []).insert(0, entry)

    def find(self, domain: str, op: str, opset: int) -> Entry | None:
        """Return the entry for an operator as read under an opset, or None where it is missing."""
        for entry in self._entries.get((domain, op), ()):
            if entry.since <= opset and (entry.until is None or opset <= entry.until):
                return entry
        return None

    def entries(self) -> tuple[Entry, ...]:
        """Return all entries, by domain and operator."""
        return tuple(entry for key in sorted(self._entries) for entry in self._entries[key])


REGISTRY = Registry()


def vjp(
    *ops: str,
    attributes: Iterable[str] = (),
    since: int | None = None,
    until: int | None = None,
    domain: str = "",
    several: bool = False,
    quantised: bool = False,
) -> Callable[[Rule], Rule]:
    """Register a rule for operators, ONNX's own or those of a third party's domain."""
    first = since if since is not None else 1 if domain else FIRST_OPSET

    def register(rule: Rule) -> Rule:
        for op in ops:
            REGISTRY.add(
                Entry(
                    op, domain, first, until, rule, None,
                    frozenset(attributes), several, quantised=quantised,
                )
            )  # fmt: skip
        return rule

    return register


def lowering(
    *ops: str,
    attributes: Iterable[str] = (),
    since: int = 1,
    until: int | None = None,
    domain: str = "",
    quantised: bool = False,
) -> Callable[[Lowering], Lowering]:
    """Register a function that writes operators as standard ones, which have rules."""

    def register(lower: Lowering) -> Lowering:
        for op in ops:
            REGISTRY.add(
                Entry(
                    op, domain, since, until, attributes=frozenset(attributes), lower=lower,
                    quantised=quantised,
                )
            )  # fmt: skip
        return lower

    return register


def no_gradient(*ops: str, domain: str = "") -> None:
    """Register operators whose derivative is zero or meaningless: gradients stop there."""
    for op in ops:
        REGISTRY.add(Entry(op, domain, 1))


def refuse(reason: str, *ops: str, domain: str = "") -> None:
    """Register operators that are refused, with the reason."""
    for op in ops:
        REGISTRY.add(Entry(op, domain, 1, reason=reason))
