"""Sources that are tables: CSV files, and Parquet files with paths or with the pictures' bytes."""

import csv
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradcam_multi.audit.items import Box, Item
from gradcam_multi.audit.listed import Columns, Listed, Row, Source, digest_of, table_of
from gradcam_multi.errors import AuditError, suggest

IMAGE = ("image", "path", "file", "filename", "file_name", "image_path")
LABEL = ("label", "class", "target")
BOX = ("box", "bbox")
SIDES = (("left", "top", "right", "bottom"), ("xmin", "ymin", "xmax", "ymax"))


@dataclass(frozen=True)
class Read:
    """Which columns of a table hold what; `box` is one column or four."""

    image: str
    label: str | None
    box: tuple[str, ...]

    @property
    def known(self) -> list[str]:
        """What is known of a picture, apart from the picture."""
        return [*([self.label] if self.label else []), *self.box]


def read_of(name: str, found: Sequence[str], asked: Columns) -> Read:
    """Return which of a table's columns are read; raise AuditError where one is missing."""

    def pick(role: str, wanted: str | None, usual: Sequence[str]) -> str | None:
        if wanted is not None and wanted not in found:
            raise AuditError(
                f"{name} has no column {wanted!r} for the {role}; it has "
                f"{', '.join(found) or 'none'}{suggest(wanted, found)}"
            )
        return wanted or next((column for column in usual if column in found), None)

    image = pick("image", asked.image, IMAGE)
    if image is None:
        raise AuditError(
            f"{name} has no column of pictures; it has {', '.join(found) or 'none'}: call it "
            f"'image', or name it with image_column (--image-column)"
        )
    box = pick("box", asked.box, BOX)
    four = next((sides for sides in SIDES if all(side in found for side in sides)), ())
    return Read(image, pick("label", asked.label, LABEL), (box,) if box else four)


def box_of(values: Sequence[Any], where: str) -> Box | None:
    """Read left, top, right, bottom from four values, or from one: a list, JSON, or 1,2,3,4."""
    given: Any = values
    if len(values) == 1:
        given = values[0]
        if isinstance(given, str) and given.strip():
            text = given.strip()
            given = text.strip("[]() ").replace(",", " ").split()
    if given is None or given == "" or all(value in (None, "") for value in given):
        return None
    try:
        left, top, right, bottom = (float(value) for value in given)
    except (TypeError, ValueError):
        raise AuditError(
            f"{where} has the box {given!r}: give left, top, right, bottom in pixels"
        ) from None
    if not (left < right and top < bottom):
        raise AuditError(
            f"{where} has the box {(left, top, right, bottom)}, which has no area: give left, "
            "top, right, bottom"
        )
    return left, top, right, bottom


def label_of(value: Any) -> str | None:
    """Return a label as text; None where there is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # integers with gaps are floats in many tables
    return None if value is None or value == "" or value != value else str(value)


def known_of(row: Row, read: Read, where: str) -> Row:
    """Return the label and the box of a table's row; `where` is what messages call it."""
    return {
        "label": None if read.label is None else label_of(row[read.label]),
        "box": box_of([row[name] for name in read.box], where) if read.box else None,
    }


def csv_rows(file: str, asked: Columns) -> Iterator[Row]:
    """List the pictures of a CSV file (a TSV by its suffix), whose first line names the columns."""
    name = f"the table {file!r}"
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            tabs = file.lower().endswith(".tsv")
            lines = csv.DictReader(stream, delimiter="\t" if tabs else ",")
            read = read_of(name, lines.fieldnames or (), asked)
            for number, row in enumerate(lines, start=2):
                yield {
                    "path": row[read.image] or None,
                    **known_of(row, read, f"{name}, row {number}"),
                }
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise AuditError(f"cannot read {name}: {why}; give a CSV file in UTF-8") from error


def open_parquet(files: Sequence[str], asked: Columns) -> Source:
    """Open Parquet files whose image column holds paths, bytes, or structs with one of both."""
    opened = []
    for file in files:
        try:
            opened.append(pq.ParquetFile(file))
        except (OSError, pa.ArrowException) as error:
            raise AuditError(
                f"cannot read the table {file!r}: {str(error).splitlines()[0]}; give a Parquet file"
            ) from error
    name = f"the table {files[0]!r}"
    schema = opened[0].schema_arrow
    read = read_of(name, schema.names, asked)
    if pa.types.is_string(schema.field(read.image).type):
        rows = (row for file in opened for row in _parquet_rows(file, read, name))
        return Listed("parquet", table_of(rows), os.path.dirname(os.path.abspath(files[0])))
    counts = [
        file.metadata.row_group(group).num_rows
        for file in opened
        for group in range(file.num_row_groups)
    ]
    places = [(at, group) for at, f in enumerate(opened) for group in range(f.num_row_groups)]
    return ParquetPictures(tuple(map(os.path.abspath, files)), read, places, counts)


def _parquet_rows(file: Any, read: Read, name: str) -> Iterator[Row]:
    for batch in file.iter_batches(columns=[read.image, *read.known]):
        for row in batch.to_pylist():
            yield {"path": row[read.image], **known_of(row, read, name)}


@dataclass
class ParquetPictures:
    """Parquet files that hold the pictures; one row group at a time is in memory."""

    files: tuple[str, ...]
    read: Read
    places: list[tuple[int, int]]
    counts: list[int]
    kind: str = "parquet"
    _held: tuple[int, list[Row]] = field(default=(-1, []), repr=False)

    def __len__(self) -> int:
        return sum(self.counts)

    def items(self, start: int, stop: int) -> list[Item]:
        """Return some of the pictures, with their bytes."""
        ends = list(accumulate(self.counts))
        found: list[Item] = []
        while start < stop:
            group = bisect_right(ends, start)
            first = ends[group] - self.counts[group]
            last = min(stop, ends[group])
            rows = self._rows(group)[start - first : last - first]
            found += [self._item(row, start + i) for i, row in enumerate(rows)]
            start = last
        return found

    def _rows(self, group: int) -> list[Row]:
        if self._held[0] != group:
            at, number = self.places[group]
            file = pq.ParquetFile(self.files[at])
            columns = [self.read.image, *self.read.known]
            self._held = group, file.read_row_group(number, columns=columns).to_pylist()
        return self._held[1]

    def _item(self, row: Row, index: int) -> Item:
        value = row[self.read.image]
        path = content = None
        if isinstance(value, dict):
            path, content = value.get("path"), value.get("bytes")
        elif isinstance(value, bytes):
            content = value
        folder = os.path.dirname(self.files[0])
        if content is None and path:
            content = os.path.join(folder, path)
        known = known_of(row, self.read, f"row {index}")
        return Item(path or f"row {index}", content, known["label"], known["box"])

    def labels(self) -> set[str]:
        """Every label that occurs."""
        if self.read.label is None:
            return set()
        found: set[str | None] = set()
        for file in self.files:
            for batch in pq.ParquetFile(file).iter_batches(columns=[self.read.label]):
                found |= {label_of(value) for value in batch.column(0).unique().to_pylist()}
        return {label for label in found if label is not None}

    def digest(self) -> str:
        """Return a SHA-256 of what is known of the pictures, and of the files' sizes."""
        sizes = [os.path.getsize(file) for file in self.files]
        if not self.read.known:
            return json.dumps([self.counts, sizes])
        batches = (
            batch
            for file in self.files
            for batch in pq.ParquetFile(file).iter_batches(columns=self.read.known)
        )
        return f"{digest_of(batches)} {sizes}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": (-1, [])}
