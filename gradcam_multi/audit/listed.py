"""A list of pictures: a table in memory of a few dozen bytes a picture, and what is asked of one.

Pictures are read later, each where it lies. The digest of a source tells whether an audit that is
resumed reads the same.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from gradcam_multi.audit.items import Item, Span

Row = dict[str, Any]
LISTED = pa.schema(
    {
        "path": pa.string(),  # what the audit calls the picture
        "file": pa.string(),  # where it is; null for the path itself under the source's root
        "offset": pa.int64(),  # in the file, of a tar's member
        "size": pa.int64(),
        "label": pa.string(),
        "box": pa.list_(pa.float64(), 4),
    }
)
_AT_ONCE = 4096  # rows that become a piece of the table


@dataclass(frozen=True)
class Columns:
    """Names of a table's columns; None for the usual ones."""

    image: str | None = None
    label: str | None = None
    box: str | None = None


class Source(Protocol):
    """Pictures in an order that does not change."""

    kind: str

    def __len__(self) -> int:
        """How many pictures there are."""

    def items(self, start: int, stop: int) -> list[Item]:
        """Return some of them."""

    def labels(self) -> set[str]:
        """Every label that occurs."""

    def digest(self) -> str:
        """Return what tells this list from another: of names, places, labels and boxes."""


@dataclass
class Listed:
    """Pictures listed in a table with the columns of `LISTED`."""

    kind: str
    table: pa.Table
    root: str = ""
    _digest: str | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def items(self, start: int, stop: int) -> list[Item]:
        """Return some of the pictures."""
        return [self._item(row) for row in self.table.slice(start, stop - start).to_pylist()]

    def _item(self, row: Row) -> Item:
        box = None if row["box"] is None else tuple(row["box"])
        if row["offset"] is not None:
            span = Span(os.path.join(self.root, row["file"]), row["offset"], row["size"])
            return Item(row["path"], span, row["label"], box)
        content = None if row["path"] is None else os.path.join(self.root, row["path"])
        return Item(row["path"] or "(no name)", content, row["label"], box)

    def labels(self) -> set[str]:
        """Every label that occurs."""
        return set(self.table["label"].unique().drop_null().to_pylist())

    def digest(self) -> str:
        """Return a SHA-256 of the table."""
        if self._digest is None:
            self._digest = digest_of(self.table.to_batches(max_chunksize=_AT_ONCE))
        return self._digest


def digest_of(batches: Iterable[Any]) -> str:
    """Return a SHA-256 of the values in record batches, however they are cut."""
    found = hashlib.sha256()
    for batch in batches:
        for row in batch.to_pylist():
            found.update(repr(tuple(row.values())).encode())
    return found.hexdigest()


def table_of(rows: Iterator[Row]) -> pa.Table:
    """Gather rows with some of the columns of `LISTED`, piece by piece."""
    pieces, held = [], []
    for row in rows:
        held.append(row)
        if len(held) == _AT_ONCE:
            pieces.append(pa.RecordBatch.from_pylist(held, LISTED))
            held = []
    pieces.append(pa.RecordBatch.from_pylist(held, LISTED))
    return pa.Table.from_batches(pieces, LISTED).combine_chunks()
