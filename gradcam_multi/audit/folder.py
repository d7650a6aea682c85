"""The folder of an audit: its record, its parts, and that nothing in it is ever half written.

A file is written under a temporary name, flushed to the disk, and renamed, so that under its own
name it is whole or absent. Part k holds the pictures k * part to (k + 1) * part of the source.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradcam_multi import __version__
from gradcam_multi.audit.schema import said_of
from gradcam_multi.audit.settings import SCHEMA, Record, differences
from gradcam_multi.errors import AuditError

RECORD, SUMMARY, LOCK = "audit.json", "summary.json", ".lock"
_TEMPORARY = ".writing-"


class Folder:
    """The folder that an audit is written to, or was."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def part(self, number: int) -> Path:
        """Return where a part is, or will be."""
        return self.path / f"part-{number:06}.parquet"

    def record(self) -> Record:
        """Return what the audit is of; raise AuditError where there is none."""
        file = self.path / RECORD
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise AuditError(
                f"no audit in {str(self.path)!r}: it holds no {RECORD}; run gradcam audit first"
            ) from error
        except (OSError, ValueError) as error:
            raise AuditError(f"cannot read {str(file)!r}: {error}") from error
        if found.get("schema") != SCHEMA:
            raise AuditError(
                f"{str(file)!r} has the schema {found.get('schema')}, and this is version "
                f"{__version__}, which reads {SCHEMA}: read it with {found.get('version')}"
            )
        return dict(found)

    @contextmanager
    def begun(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Make the folder, or check that what it holds was made with the same settings.

        Nobody else writes to it within the context. Raises AuditError.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / LOCK, "ab")
        except OSError as error:
            raise self._unwritable(error) from error
        with lock:
            if not _locked(lock):
                raise AuditError(
                    f"another audit is writing to {str(self.path)!r}: wait for it, or give "
                    "another --output"
                )
            for left in self.path.glob(f"{_TEMPORARY}*"):
                with suppress(OSError):
                    left.unlink()
            new = {"schema": SCHEMA, "version": __version__, "settings": dict(settings)}
            if not (self.path / RECORD).exists():
                if next(self.path.glob("part-*.parquet"), None) is not None:
                    raise AuditError(
                        f"{str(self.path)!r} holds parts and no {RECORD}, so that nobody can say "
                        "what they are of: give another --output"
                    )
                self.write(RECORD, _json(new))
            old = self.record()
            changed = differences(old["settings"], json.loads(_json(new))["settings"])
            if old["version"] != __version__:
                changed.append(f"the version ({old['version']}, now {__version__})")
            if changed:
                raise AuditError(
                    f"{str(self.path)!r} holds an audit with other settings: "
                    f"{'; '.join(changed)}: give the same ones to resume it, or another --output"
                )
            yield

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a whole; raise AuditError where that cannot be done."""
        temporary = self.path / f"{_TEMPORARY}{os.getpid()}-{name}"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / name)
            _flush(self.path)  # else the name may be lost where the content is not
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise self._unwritable(error, name) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as a JSON file."""
        self.write(name, _json(value))

    def _unwritable(self, error: OSError, name: str = "") -> AuditError:
        target = str(self.path / name)
        return AuditError(
            f"cannot write {target!r}: {error.strerror or error}; what is written is whole: make "
            "room or give leave to write, and run the same command again"
        )

    def numbers(self) -> list[int]:
        """Return the numbers of the parts that are there, in order."""
        found = (path.stem.removeprefix("part-") for path in self.path.glob("part-*.parquet"))
        return sorted(int(number) for number in found if number.isdecimal())

    def done(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Return how many pictures failed in each part that is there and whole.

        `counts` are the rows that each part should have. A part that cannot be read, or has other
        rows, counts as absent: it will be written again.
        """
        found = {}
        for number in self.numbers():
            with suppress(OSError, pa.ArrowException):
                metadata = pq.read_metadata(self.part(number))
                said = said_of(metadata.metadata)
                if metadata.num_rows == counts.get(number) and said.get("part") == number:
                    found[number] = int(said["failed"])
        return found

    def tables(self, columns: list[str] | None = None) -> Iterator[Any]:
        """Read the parts, one table after the other."""
        for number in self.numbers():
            try:
                yield pq.read_table(self.part(number), columns=columns)
            except (OSError, pa.ArrowException) as error:
                raise AuditError(
                    f"{str(self.part(number))!r} is damaged ({str(error).splitlines()[0]}): run "
                    "the audit again, which writes it anew"
                ) from error


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _flush(folder: Path) -> None:
    with suppress(OSError):  # not every system opens a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _locked(file: Any) -> bool:
    """Whether the lock is ours; where the system has none, it is."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, PermissionError):
        return True
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
