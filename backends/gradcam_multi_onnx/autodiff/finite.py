"""Which values may be infinite though all that led to them are ordinary numbers."""

from collections.abc import Iterable, Sequence

_MAKERS = frozenset({"Cosh", "Exp", "Log", "Pow", "Reciprocal", "Sinh", "Tan"})


def makes_infinity(op: str) -> bool:
    """Return whether an operator makes infinity out of some ordinary numbers."""
    return op == "Div" or op in _MAKERS


class Finiteness:
    """Follows infinity from node to node of a gradient graph."""

    def __init__(self) -> None:
        self._infinite: set[str] = set()

    def follow(
        self, op: str, inputs: Sequence[str], outputs: Iterable[str], *, by_zero: bool
    ) -> None:
        """Take note of a node; `by_zero` is whether its second input may be zero."""
        made = makes_infinity(op) and (op != "Div" or by_zero)
        if made or not self._infinite.isdisjoint(inputs):
            self.doubt(outputs)

    def doubt(self, names: Iterable[str]) -> None:
        """Take values for infinite."""
        self._infinite.update(names)

    def holds(self, name: str) -> bool:
        """Return whether a value is finite."""
        return name not in self._infinite
