"""What an audit reads: a folder, files, a pattern, a CSV or Parquet table, WebDataset tars."""

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gradcam_multi.audit.listed import Columns, Listed, Row, Source, table_of
from gradcam_multi.audit.shards import tar_rows
from gradcam_multi.audit.tables import csv_rows, open_parquet
from gradcam_multi.errors import AuditError, ImageError
from gradcam_multi.images import SUFFIXES, find_images


def open_source(
    given: Any, *, columns: Columns | None = None, folder_labels: bool = False
) -> Source:
    """List what an audit is to read.

    `given` is a folder (pictures in it and in its subfolders, hidden ones left out), a glob
    pattern, a CSV or Parquet file, a tar file, one picture, or a sequence of pictures' paths.
    `folder_labels` takes the name of a picture's folder as its label.

    Raises ImageError where it stands for no picture, AuditError where it cannot be read.
    """
    columns = columns or Columns()
    if not isinstance(given, (str, os.PathLike)):
        source: Source = Listed("list", table_of({"path": os.fspath(path)} for path in given))
    elif os.path.isdir(given):
        rows = _in_folder(os.fspath(given), folder_labels)
        source = Listed("folder", table_of(rows), os.path.abspath(given))
    else:
        source = _from_files(_files(os.fspath(given)), columns, folder_labels)
    if not len(source):
        raise ImageError(
            f"no picture in {_shown(given)}: give a folder, a pattern, a CSV or Parquet file or a "
            f"tar with pictures ({', '.join(sorted(SUFFIXES)[:6])}, ...)"
        )
    return source


def _shown(given: Any) -> str:
    return repr(os.fspath(given)) if isinstance(given, (str, os.PathLike)) else "the list given"


def _files(given: str) -> list[str]:
    if os.path.exists(given) or not glob.has_magic(given):
        if not os.path.exists(given):
            raise ImageError(f"no source {given!r}: there is no such file or folder")
        return [given]
    return [str(path) for path in find_images(given)]


def _from_files(files: Sequence[str], columns: Columns, folder_labels: bool) -> Source:
    """Return the source that files of one kind make."""
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise AuditError(
            f"files of several kinds were given ({', '.join(sorted(kinds))}): give one kind"
        )
    (kind,) = kinds
    folders = {os.path.dirname(os.path.abspath(file)) for file in files}
    if kind in ("csv", "parquet") and len(folders) > 1:
        raise AuditError(
            f"tables of {len(folders)} folders were given: pictures are looked for beside a "
            "table, so give those of one folder"
        )
    if kind == "parquet":
        return open_parquet(files, columns)
    listings: dict[str, Callable[[str], Iterator[Row]]] = {
        "csv": lambda file: csv_rows(file, columns),
        "tar": tar_rows,
        "pictures": lambda file: iter([_row(file, folder_labels)]),
    }
    rows = (row for file in files for row in listings[kind](file))
    # What a table names is beside the table; all else as it was given.
    root = folders.pop() if kind == "csv" else ""
    return Listed(kind, table_of(rows), root)


def _kind(file: str) -> str:
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    if suffixes[-1:] in ([".csv"], [".tsv"]):
        return "csv"
    if suffixes[-1:] in ([".parquet"], [".pq"]):
        return "parquet"
    if ".tar" in suffixes[-2:] or suffixes[-1:] == [".tgz"]:
        return "tar"
    return "pictures"


def _row(path: str, folder_labels: bool) -> Row:
    return {"path": path, "label": Path(path).parent.name or None if folder_labels else None}


def _in_folder(root: str, folder_labels: bool) -> Iterator[Row]:
    """Walk a folder in natural order, names only: a million pictures are a million rows."""
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(os.path.join(root, inside)) as entries:
                seen = [(e.name, e.is_dir()) for e in entries if e.name[0] != "."]
        except OSError as error:
            raise AuditError(
                f"cannot list the folder {os.path.join(root, inside)!r}: {error.strerror}"
            ) from error
        seen.sort(key=_natural)
        names = [name for name, folder in seen if not folder]
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                label = os.path.basename(inside) or None if folder_labels else None
                yield {"path": os.path.join(inside, name), "label": label}
        folders = [os.path.join(inside, name) for name, folder in seen if folder]
        waiting += reversed(folders)


def _natural(entry: tuple[str, bool]) -> list[tuple[int, int, str]]:
    pieces = re.split(r"(\d+)", entry[0].lower())
    key = [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces]
    return [*key, (2, 0, entry[0])]
