"""The table of docs/onnx_coverage.md: written by the tests on demand, checked by them always."""

import os
from collections.abc import Iterable
from pathlib import Path

from gradient_referee import PLACES, Finding

PATH = Path(__file__).parents[2] / "docs" / "onnx_coverage.md"
WRITE = "GRADCAM_WRITE_COVERAGE"

_HEAD = f"""# Networks whose ONNX gradients were compared

Each network has random weights and random statistics. Compared are the gradients at the last
feature map, at an early one and at the input itself, with batches of one and three, to the
framework's own (PyTorch's autograd, TensorFlow's tape; for the `light` models of the onnx package
a float64 interpretation by PyTorch). A figure is the largest difference, relative to the largest
gradient; more than 1e-3 fails the test. Figures differ a little between machines; the rows, the
operators and what is refused do not.

Written by `{WRITE}=1 tox -e parity`.

| network | exporter | early | last | input | operators on the way |
|---|---|---|---|---|---|
"""

Row = tuple[str, ...]


def rows() -> dict[tuple[str, str], Row]:
    """Return the table's rows by network and exporter."""
    lines = PATH.read_text().splitlines() if PATH.exists() else []
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    table = [row for row in cells if len(row) == 6]
    return {(row[0], row[1]): row for row in table[2:]}  # behind the heading and its rule


class Recorder:
    """Collects rows; writes the table where asked to, else holds each row against it."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Row] = {}
        self.writing = os.environ.get(WRITE) == "1"
        self.known = {} if self.writing else rows()

    def equal(self, network: str, exporter: str, finding: Finding) -> None:
        """Record that a network's gradients are the framework's."""
        figures = [f"{finding.errors[place]:.0e}" for place in PLACES]
        self._record((network, exporter, *figures, " ".join(finding.operators)))

    def refused(self, network: str, exporter: str, reason: str) -> None:
        """Record that there is no gradient, and why."""
        self._record((network, exporter, "-", "-", "-", reason))

    def _record(self, row: Row) -> None:
        key = row[:2]
        self.found[key] = row
        if not self.writing:
            known = self.known.get(key)
            assert known is not None, f"{PATH.name} lacks {key}; write it again ({WRITE}=1)"
            stale = (known[2] == "-", known[5]) != (row[2] == "-", row[5])
            assert not stale, f"{PATH.name} says {known}, found {row}; write it again ({WRITE}=1)"

    def close(self, known: Iterable[tuple[str, str]]) -> None:
        """Write the table if asked to: what was found, and the earlier rows of what was not run."""
        if self.writing and self.found:
            table = {**rows(), **self.found}
            lines = [f"| {' | '.join(table[key])} |" for key in known if key in table]
            PATH.write_text(_HEAD + "\n".join(lines) + "\n")
