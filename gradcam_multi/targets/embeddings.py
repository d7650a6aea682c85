"""A target for models that return a vector: retrieval, face recognition, images beside text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

from gradcam_multi.errors import TargetError
from gradcam_multi.targets.protocol import Item, Vector


@dataclass(frozen=True, eq=False)
class Similarity:
    """How similar an item's embedding is to a reference: the cosine of their angle, or "dot".

    `reference` is as long as the embedding: that of another image, or of a text. `output` names the
    output; `name` is what to call the reference. A zero vector has the cosine 0 and no derivative.
    """

    reference: Any = field(repr=False)
    kind: Literal["cosine", "dot"] = "cosine"
    output: str | None = None
    name: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output's name, or () for the one that is explained."""
        return () if self.output is None else (self.output,)

    def resolve_item(self, item: Item) -> Self:
        """Return itself; raise TargetError where the reference does not fit."""
        name = item.called(self.output)
        if self.kind not in ("cosine", "dot"):
            raise TargetError(f"similarity {self.kind!r} was asked for: give 'cosine' or 'dot'")
        if self._reference().size != item[name].size:
            raise TargetError(
                f"the reference has {self._reference().size} entries; output {name!r} has the "
                f"shape {item[name].shape} an item: give one of the same model, or output=..."
            )
        return self

    def score_item(self, item: Item) -> tuple[float, Mapping[str, Vector]]:
        """Return the similarity, and its derivative by the embedding."""
        name = item.called(self.output)
        found, r = item[name], self._reference()
        e = found.ravel()
        if self.kind == "dot":
            return float(e @ r), {name: r.reshape(found.shape)}
        length, other = float(np.linalg.norm(e)), float(np.linalg.norm(r))
        if length == 0 or other == 0:
            return 0.0, {name: np.zeros_like(found)}
        cosine = float((e / length) @ (r / other))
        slope = (r / other - cosine * (e / length)) / length
        return cosine, {name: slope.reshape(found.shape)}

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return what it is similar to."""
        return f"like {self.name}" if self.name else f"{self.kind} similarity"

    def _reference(self) -> Vector:
        return np.asarray(self.reference, np.float64).ravel()
