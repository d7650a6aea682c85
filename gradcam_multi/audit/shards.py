"""WebDataset tars: the files of a sample share their name up to the first dot.

A sample's picture is its first file of a picture's suffix; `.cls` holds its label; `.json` may hold
`label` and `box`. Only headers and labels are read here: pictures are read later, by their place.
"""

import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

from gradcam_multi.audit.listed import Row
from gradcam_multi.audit.tables import box_of
from gradcam_multi.errors import AuditError
from gradcam_multi.images import SUFFIXES


def tar_rows(file: str) -> Iterator[Row]:
    """List the samples of an uncompressed tar in its order; raise AuditError for other files."""
    try:
        with tarfile.open(file, "r:") as tar:
            yield from _samples(tar, os.path.abspath(file), os.path.basename(file))
            _check_end(tar, file)
    except tarfile.TarError as error:
        raise AuditError(
            f"cannot read the tar {file!r} ({error}): it is cut short, compressed or no tar; give "
            "a whole one, not compressed, so that pictures can be read where they lie"
        ) from error
    except OSError as error:
        raise AuditError(f"cannot read the tar {file!r}: {error.strerror}") from error


def _samples(tar: tarfile.TarFile, file: str, shard: str) -> Iterator[Row]:
    key: tuple[str, str] | None = None
    row: Row = {}
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
        folder, name = os.path.split(member.name)
        if not member.isfile() or name.startswith("."):
            continue
        stem, _, extension = name.partition(".")
        if (folder, stem) != key:
            if "path" in row:
                yield row
            key, row = (folder, stem), {}
        if f".{extension.lower()}" in SUFFIXES and "path" not in row:
            row |= {"path": f"{shard}::{member.name}", "file": file}
            row |= {"offset": member.offset_data, "size": member.size}
        elif extension in ("cls", "json"):
            row |= _known(tar, member, extension, f"{shard}::{member.name}")
    if "path" in row:
        yield row


def _check_end(tar: tarfile.TarFile, file: str) -> None:
    """Raise ReadError where a tar ends without its mark, a block of zeros: tarfile lets it pass."""
    with open(file, "rb") as stream:
        stream.seek(tar.offset)
        block = stream.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("no end mark")


def _known(tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str, name: str) -> Row:
    stream = tar.extractfile(member)
    content = b"" if stream is None else stream.read()
    try:
        text = content.decode().strip()
        if extension == "cls":
            return {"label": text or None}
        said: Any = json.loads(text)
    except ValueError as error:
        raise AuditError(f"{name} is not what its name says: {error}") from error
    if not isinstance(said, dict):
        return {}
    row: Row = {}
    if said.get("label") is not None:
        row["label"] = str(said["label"])
    if said.get("box") is not None:
        row["box"] = box_of([said["box"]], name)
    return row
