"""A serialised model without its large weights, which are found but not read.

Protobuf reads all or nothing, and keeps a copy. Here only the headers of a graph's initialisers are
read, after https://protobuf.dev/programming-guides/encoding; the rest is left to protobuf.
"""

from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has no stubs
from onnx import TensorProto

from gradcam_multi_onnx.sizes import byte_size

LARGE = 1 << 14
"""Bytes of a tensor's elements that are left where they are."""

Places = Mapping[str, tuple[int, int]]
"""Offset and length of what was left out, by the initialiser's name."""

_VARINT, _EIGHT, _COUNTED, _FOUR = 0, 1, 2, 5
_GRAPH = 7  # in ModelProto
_INITIALIZER = 5  # in GraphProto
_RAW = TensorProto.RAW_DATA_FIELD_NUMBER
_MOST_BITS = 64


class _Field(NamedTuple):
    number: int
    kind: int
    start: int
    """Where its tag starts."""
    content: int
    end: int


def outline(file: IO[bytes], size: int) -> tuple[bytes, Places]:
    """Return a model whose large initialisers are marked as external, without a location.

    A file that is not well formed is returned as it is, for protobuf to say what is wrong.
    """
    try:
        reader = _Reader(file)
        parts = [
            reader.graph(field) if _is(field, _GRAPH) else reader.copy(field)
            for field in _fields(file, 0, size)
        ]
        return b"".join(parts), reader.places
    except (_MalformedError, DecodeError):
        file.seek(0)
        return file.read(), {}


class _MalformedError(Exception):
    """The bytes are not those of a message."""


def _is(field: _Field, number: int) -> bool:
    return field.number == number and field.kind == _COUNTED


def _fields(file: IO[bytes], start: int, end: int) -> Iterator[_Field]:
    while start < end:
        file.seek(start)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        content = file.tell()
        if kind == _VARINT:
            _varint(file)
            after = file.tell()
        elif kind == _COUNTED:
            length = _varint(file)
            content = file.tell()
            after = content + length
        elif kind in (_EIGHT, _FOUR):
            after = content + (8 if kind == _EIGHT else 4)
        else:
            raise _MalformedError
        if number == 0 or after > end:
            raise _MalformedError
        yield _Field(number, kind, start, content, after)
        start = after


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, _MOST_BITS + 6, 7):
        byte = file.read(1)
        if not byte:
            raise _MalformedError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _MalformedError


def _counted(number: int, content: bytes) -> bytes:
    """Return a field that holds bytes or a message."""
    return _head(number, len(content)) + content


def appended(tensor: TensorProto, length: int) -> bytes:
    """Return what stands before an initialiser's elements in a message that adds it to a model.

    `tensor` is the initialiser without them, `length` the number of bytes that they fill.
    """
    inside: bytes = tensor.SerializeToString() + _head(_RAW, length)
    inside = _head(_INITIALIZER, len(inside) + length) + inside
    return _head(_GRAPH, len(inside) + length) + inside


def _head(number: int, length: int) -> bytes:
    return _as_varint(number << 3 | _COUNTED) + _as_varint(length)


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


_PLAIN = {"name", "data_type", "dims", "doc_string"}
"""What a tensor may say beside its elements for them to be left out."""


class _Reader:
    """Copies fields of a file, all but what large initialisers hold."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.places: dict[str, tuple[int, int]] = {}

    def copy(self, field: _Field) -> bytes:
        self._file.seek(field.start)
        return self._file.read(field.end - field.start)

    def graph(self, graph: _Field) -> bytes:
        parts = [
            self._initializer(field)
            if _is(field, _INITIALIZER) and field.end - field.content > LARGE
            else self.copy(field)
            for field in _fields(self._file, graph.content, graph.end)
        ]
        return _counted(_GRAPH, b"".join(parts))

    def _initializer(self, field: _Field) -> bytes:
        inside = list(_fields(self._file, field.content, field.end))
        raw = [each for each in inside if _is(each, _RAW)]
        if len(raw) != 1:
            return self.copy(field)
        others = b"".join(self.copy(each) for each in inside if each != raw[0])
        tensor = TensorProto.FromString(others)
        length = raw[0].end - raw[0].content
        plain = not {each.name for each, _ in tensor.ListFields()} - _PLAIN
        known = tensor.name in self.places
        if known or not (plain and length > LARGE and byte_size(tensor) == length):
            return self.copy(field)
        self.places[tensor.name] = raw[0].content, length
        tensor.data_location = TensorProto.EXTERNAL
        return _counted(_INITIALIZER, tensor.SerializeToString())
