"""What is known of a model that was looked over: facts, candidates, methods, and what is wrong."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from gradcam_multi.spec import TensorSpec

SCHEMA = 1
"""The version of the JSON report; it rises when a key changes its meaning or goes."""


@dataclass(frozen=True)
class Candidate:
    """A layer that may be explained: its grid, and how strongly the score depends on it.

    `gradient_norm` is the Euclidean norm of the score's gradient, the mean over the test items;
    None where `problem` says why there is none. `chosen` marks the one explained.
    """

    name: str
    kind: str
    grid: tuple[int | None, ...]
    chosen: bool
    gradient_norm: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class MethodCheck:
    """Whether a method ran on the test input, and what is to be said about its maps."""

    name: str
    works: bool
    note: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What a model is, and whether and how it can be explained; prints as a few lines.

    `size` is that of its file in bytes, None for an object. `problem` says in a line why it cannot
    be explained and what to do; empty where it can.
    """

    model: str
    size: int | None = None
    backend: str = ""
    framework: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    test_input: str = ""
    layer: str | None = None
    candidates: tuple[Candidate, ...] = ()
    methods: tuple[MethodCheck, ...] = ()
    problem: str = ""

    @property
    def explainable(self) -> bool:
        """Whether a layer was found, and a method worked on it."""
        return not self.problem

    def report(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {"schema": SCHEMA, "explainable": self.explainable, **asdict(self)}

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.report(), indent=2, allow_nan=False) + "\n"

    def __str__(self) -> str:
        size = "" if self.size is None else f", {self.size / 1e6:.1f} MB"
        rows = [("model", f"{self.model}{size}")]
        if self.backend:
            rows.append(("opened by", f"{self.backend} ({self.framework})"))
        rows += [("input", _spec(spec)) for spec in self.inputs]
        rows += [("output", _spec(spec)) for spec in self.outputs]
        if self.test_input:
            rows.append(("tested on", self.test_input))
        rows += [("layer", line) for line in _candidates(self.candidates)]
        working = [check.name for check in self.methods if check.works and not check.note]
        if working:
            rows.append(("methods", f"{', '.join(working)}: ok"))
        for check in self.methods:
            if check.note and check.note != self.problem:
                rows.append(("method", f"{check.name}: {check.note}"))
        verdict = "can be explained" if self.explainable else f"cannot be explained: {self.problem}"
        rows.append(("verdict", verdict))
        return "\n".join(f"{head:<9}  {text}" for head, text in rows)


def _spec(spec: TensorSpec) -> str:
    shape = ", ".join("N" if n is None else str(n) for n in spec.shape)
    layout = f", {spec.layout.replace('_', ' ')}" if spec.layout else ""
    ending = f", ends in a {spec.activation}: explained before it" if spec.activation else ""
    return f"{spec.name} ({shape}) {spec.dtype}{layout}{ending}"


def _candidates(candidates: tuple[Candidate, ...]) -> list[str]:
    rows = [
        (
            "*" if each.chosen else "",
            each.name,
            each.kind,
            "x".join("?" if n is None else str(n) for n in each.grid),
            each.problem
            if each.gradient_norm is None
            else f"gradient norm {each.gradient_norm:.3g}",
        )
        for each in candidates
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
