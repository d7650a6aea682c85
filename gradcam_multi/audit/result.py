"""An audit on disk: its settings, tables, pictures and summary."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.audit.folder import SUMMARY, Folder
from gradcam_multi.audit.items import read_picture
from gradcam_multi.audit.listed import Columns
from gradcam_multi.audit.settings import Record
from gradcam_multi.audit.sources import open_source
from gradcam_multi.audit.summary import summarise
from gradcam_multi.audit.text import text_of
from gradcam_multi.errors import AuditError
from gradcam_multi.spec import Array


class Audit:
    """What an audit wrote to a folder, finished or not; printing it shows what was found."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.settings: Record = folder.record()["settings"]

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def parts(self) -> list[Path]:
        """The Parquet files, in the order of the pictures."""
        return [self.folder.part(number) for number in self.folder.numbers()]

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Read part after part as pyarrow Tables, so that memory stays flat."""
        return self.folder.tables(None if columns is None else list(columns))

    def table(self, columns: Sequence[str] | None = None) -> Any:
        """Read all rows as one pyarrow Table; name the columns where there are many."""
        import pyarrow as pa

        tables = list(self.tables(columns))
        if not tables:
            raise AuditError(f"no part is in {str(self.path)!r} yet: run the audit first")
        return pa.concat_tables(tables)

    @property
    def summary(self) -> Record:
        """What was found; from summary.json, or summed up now where there is none."""
        try:
            return dict(json.loads((self.path / SUMMARY).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return summarise(self.folder)

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Read a picture of the audit again, (H, W, 3) uint8 RGB, by its index.

        Raises AuditError where the source was given as a list or has changed, so that another
        picture has the index, and ImageError where it cannot be read.
        """
        source = self.settings["source"]
        if source["given"] is None:
            raise AuditError(
                "the pictures of an audit of a list are not found again: read the files by their "
                "paths"
            )
        if not hasattr(self, "_source"):
            self._source = open_source(
                source["given"],
                columns=Columns(*source["columns"]),
                folder_labels=source["folder_labels"],
            )
            self._changed = self._source.digest() != source["digest"]
        if self._changed:
            raise AuditError(
                f"{source['given']!r} does not list the pictures of the audit any more: read them "
                "by their paths"
            )
        return read_picture(self._source.items(index, index + 1)[0])

    def __str__(self) -> str:
        return text_of(self.summary)


def maps_of(table: Any, column: str = "map") -> Array:
    """Return the maps of a table's rows as (N, ..., h, w) float32, in the score's own unit.

    NaN where a picture failed.
    """
    values = table[column].combine_chunks()
    shape = table[column].type.shape
    found = np.full((len(values), *shape), np.nan, np.float32)
    there = values.is_valid().to_numpy(zero_copy_only=False)
    kept = values.storage.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    scale = table[f"{column}_scale"].combine_chunks()
    if column == "map":
        factor = scale.drop_null().to_numpy(zero_copy_only=False)
    else:
        factor = scale.flatten().to_numpy(zero_copy_only=False).reshape(-1, shape[0])
    found[there] = kept.reshape(-1, *shape) * factor[..., None, None]
    return found


def open_audit(path: str | os.PathLike[str]) -> Audit:
    """Open the audit in a folder; raise AuditError where there is none."""
    return Audit(Folder(path))
