"""Where a model comes from: read again whenever weights are needed, never changed."""

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no stubs

from gradcam_multi.errors import ModelFileError
from gradcam_multi_onnx.outline import Places, outline

Providers = tuple[tuple[str, Mapping[str, Any]], ...]
_LIGHT = 1 << 21  # bytes of an outline that is kept; most have some hundred thousand


@dataclass(frozen=True)
class Source:
    """The serialised model, in memory or in a file, and the providers that its owner chose.

    `name` is what error messages call it; `stamp` is the file's size and time when opened.
    `threads` are those of a session, 0 for as many as ONNX Runtime takes by itself; `frugal`
    ones hold no more than they need, see `make_session`.
    External data may lie in one of the `folders` and does lie in `home`; `places` are where in the
    serialised model the initialisers are that an outline leaves out.
    """

    name: str
    path: Path | None = None
    data: bytes = b""
    providers: Providers | None = None
    stamp: tuple[int, int] = field(default=(0, 0))
    folders: tuple[Path, ...] = ()
    home: Path | None = None
    places: Places = field(default_factory=dict, compare=False)
    threads: int = 0
    frugal: bool = False

    @contextmanager
    def stream(self) -> Iterator[IO[bytes]]:
        """Open the serialised model. Raises ModelFileError where the file is gone or changed."""
        if self.path is None:
            yield io.BytesIO(self.data)
            return
        try:
            if _stamp(self.path) != self.stamp:
                raise ModelFileError(f"{self.name} has changed since it was opened; open it again")
            with open(self.path, "rb") as file:
                yield file
        except OSError as error:
            raise ModelFileError(f"cannot read {self.name}: {error.strerror}") from error

    def read(self) -> bytes:
        """Return the serialised model. Raises ModelFileError where the file is gone or changed."""
        if self.path is None:
            return self.data
        with self.stream() as file:
            return file.read()

    @property
    def size(self) -> int:
        """How many bytes the serialised model has."""
        return len(self.data) if self.path is None else self.stamp[0]

    def parse(self) -> onnx.ModelProto:
        """Return the model, without external data. Raises ModelFileError where it is not ONNX."""
        return self._parsed(self.read())

    def outline(self) -> tuple[onnx.ModelProto, "Source"]:
        """Return the model without its large initialisers, and the source that finds them.

        They are left in the file: external by their mark, without a location. Raises as `parse`.
        """
        content, places = self._outline
        if len(content) > _LIGHT:
            self.__dict__.pop("_outline", None)
        return self._parsed(content), self._with(places=places)

    @cached_property  # the file is asked again whether it has changed whenever weights are read
    def _outline(self) -> tuple[bytes, Places]:
        with self.stream() as file:
            return outline(file, self.size)

    def _with(self, **changes: Any) -> "Source":
        """Return the same model with more known of it, its outline not drawn again."""
        known = replace(self, **changes)
        if "_outline" in self.__dict__:
            known.__dict__["_outline"] = self._outline
        return known

    def _parsed(self, data: bytes) -> onnx.ModelProto:
        model = onnx.ModelProto()
        try:
            model.ParseFromString(data)
        except DecodeError as error:
            raise ModelFileError(
                f"{self.name} is not an ONNX model: its content cannot be parsed as one; "
                "give a file written by an ONNX exporter"
            ) from error
        if not model.graph.node or not model.opset_import:
            raise ModelFileError(
                f"{self.name} is not an ONNX model: it holds no graph; "
                "give a file written by an ONNX exporter"
            )
        return model

    @property
    def folder(self) -> str:
        """The folder against which external data is resolved, or ''."""
        return str(self.home) if self.home else ""

    def at(self, home: Path) -> "Source":
        """Return the same with the folder of its external data known."""
        return self._with(home=home)

    def as_frugal(self, frugal: bool) -> "Source":
        """Return the same, to be run by sessions that are frugal or not."""
        return self if frugal == self.frugal else self._with(frugal=frugal)

    def rewritten(self, data: bytes) -> "Source":
        """Return another model in memory, whose external data are where this one's are."""
        return replace(self, data=data, path=None, stamp=(0, 0), places={})


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _from_path(path: Path, providers: Providers | None = None) -> Source:
    try:
        if path.is_dir():
            raise ModelFileError(f"{str(path)!r} is a folder; give the .onnx file in it")
        if not path.is_file() and path.exists():
            raise ModelFileError(f"{str(path)!r} is no plain file; give an .onnx file")
        # The path may be a link, with its data beside the link or beside what it points to.
        folders = tuple(dict.fromkeys((path.absolute().parent, path.resolve().parent)))
        return Source(
            repr(str(path)), path=path, providers=providers, stamp=_stamp(path), folders=folders
        )
    except FileNotFoundError as error:
        raise ModelFileError(f"{str(path)!r} does not exist; check the path") from error
    except ModelFileError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # circles of links, a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(f"cannot read {str(path)!r}: {reason}") from error


def open_source(model: Any) -> Source:
    """Return the source of a path, bytes, a ModelProto or an InferenceSession.

    A ModelProto is serialised at once, so later changes to it do not show. Raises ModelFileError.
    """
    if isinstance(model, str | Path):
        return _from_path(Path(model))
    if isinstance(model, bytes | bytearray | memoryview):
        return Source(f"the model of {len(model)} bytes", data=bytes(model))
    if isinstance(model, onnx.ModelProto):
        return Source("the ModelProto", data=serialise(model))
    return _from_session(model)


def serialise(model: onnx.ModelProto) -> bytes:
    """Return a model as bytes. Raises ModelFileError where protobuf cannot hold it."""
    try:
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf raises several kinds beyond 2 GB
        raise ModelFileError(
            "the ModelProto cannot be serialised (protobuf holds 2 GB at most); "
            "save it with external data and give the path"
        ) from error


def _from_session(session: Any) -> Source:
    options = session.get_provider_options()
    providers = tuple((name, dict(options.get(name, {}))) for name in session.get_providers())
    path = getattr(session, "_model_path", None)
    data = getattr(session, "_model_bytes", None)
    if path:
        return _from_path(Path(path), providers)
    if data:
        return Source("the session's model", data=bytes(data), providers=providers)
    raise ModelFileError(
        "this InferenceSession does not tell which model it runs; hand over the model's path or "
        "bytes instead"
    )
