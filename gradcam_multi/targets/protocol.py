"""What a target is: a score of one item, and its derivative with respect to what it was read from.

Most targets read one row of class scores (`Target`); those that read maps, boxes, tokens or several
outputs get all that the model returned for the item (`ItemTarget`).
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Literal, Protocol, Self, TypeGuard, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import TargetError, suggest
from gradcam_multi.spec import Layout

Activation = Literal["softmax", "sigmoid"] | None
Vector = NDArray[np.float64]
"""float64, `(classes,)` or of an output's own shape without the batch axis."""


@runtime_checkable
class Target(Protocol):
    """A score of one item's class scores, and its derivative.

    `index`, where it has one, is the class that it is about. It may also have `describe(labels)`,
    what to call it, and `probability_of(probabilities)` where that is not the class's.
    """

    def resolve(self, logits: Vector, labels: Sequence[str] | None) -> "Target":
        """Settle what depends on the item: the top class, a class given by name."""
        ...

    def score(self, logits: Vector, activation: Activation) -> tuple[float, Vector]:
        """Return the score of `(classes,)` logits and its derivative, `(classes,)`.

        `activation` is what the model itself applies to the logits, where that is known.
        """
        ...


class Item(Mapping[str, Vector]):
    """All that a model returned for one item: float64 logits by the output's name, no batch axis.

    `output` is the output that is explained; `activations` names the functions behind which the
    logits of an output lie. `labels` are the class names, `size` the spatial size of the input, and
    `layout` says where it has its channels.
    """

    def __init__(
        self,
        logits: Mapping[str, NDArray[Any]],
        output: str | None = None,
        *,
        activations: Mapping[str, Activation] | None = None,
        labels: Sequence[str] | None = None,
        size: tuple[int, ...] = (),
        layout: Layout = "channels_first",
    ) -> None:
        self._logits = logits
        self.output = next(iter(logits)) if output is None else output
        self.activations = activations or {}
        self.labels, self.size, self.layout = labels, size, layout

    def __getitem__(self, name: str) -> Vector:
        return np.asarray(self._logits[name], np.float64)

    def __iter__(self) -> Iterator[str]:
        return iter(self._logits)

    def __len__(self) -> int:
        return len(self._logits)

    def called(self, name: str | None) -> str:
        """Return an output's name, that of the explained one for None; raise TargetError."""
        if name is None:
            return self.output
        if name not in self._logits:
            found = ", ".join(f"{n} {np.shape(z)}" for n, z in self._logits.items())
            raise TargetError(
                f"the target reads output {name!r}; for an item the model returns {found}"
                f"{suggest(name, self)}"
            )
        return name


@runtime_checkable
class ItemTarget(Protocol):
    """A score of one item's outputs of any shape, and its derivative with respect to some.

    `index` and `describe` are as for `Target`; it has no probability.
    """

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that it is differentiated by; () for the one that is explained."""
        ...

    def resolve_item(self, item: Item) -> Self:
        """Settle what depends on the item: a class given by name, the region predicted."""
        ...

    def score_item(self, item: Item) -> tuple[float, Mapping[str, Vector]]:
        """Return the score and its derivatives, of the outputs' own shapes, by their names."""
        ...


AnyTarget = Target | ItemTarget


def reads_rows(target: Any) -> TypeGuard[Target]:
    """Whether a target reads one row of class scores."""
    kind: Any = type(target)
    return _row_kind(kind) or isinstance(target, Target)


@cache
def _row_kind(kind: type) -> bool:
    # Asking an instance takes microseconds on Python 3.11, and is asked for each item.
    return issubclass(kind, Target)
