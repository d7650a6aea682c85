"""Weights that lie beside the model: found inside its folder only, read slice by slice."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper

from gradcam_multi.errors import ModelFileError
from gradcam_multi_onnx.sizes import byte_size as byte_size
from gradcam_multi_onnx.source import Source

_MEMORY_MARK = "*/"  # ONNX Runtime reads such a location's offset as an address in memory


def is_external(tensor: TensorProto) -> bool:
    """Return whether a tensor's data lie in a file of their own."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def tensors_of(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor of a graph: initialisers, attributes, and those of its bodies."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_of_node(node)


def all_tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor of a model, its functions included."""
    yield from tensors_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_of_node(node)
    for training in model.training_info:  # nobody runs it, but it lies in what is handed on
        yield from tensors_of(training.initialization)
        yield from tensors_of(training.algorithm)


def _tensors_of_node(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from tensors_of(attribute.g)
        for body in attribute.graphs:
            yield from tensors_of(body)


def locate(source: Source, tensors: Iterable[TensorProto]) -> Source:
    """Return the source with the folder in which its external data lie.

    Every file, offset and length is checked before anything is read or handed to ONNX Runtime.
    Raises ModelFileError where one is absent, too short, no plain file, or outside the folder.
    """
    outside = [tensor for tensor in tensors if is_external(tensor) and not _held(source, tensor)]
    if not outside:
        return source
    if not source.folders:
        raise ModelFileError(
            f"{source.name} keeps weights in {_entries(outside[0]).get('location', '')!r} and "
            "comes without a folder; give the path of the .onnx file"
        )
    # A link to a model may lie beside links to its data, or point to where both are.
    first = _location(source, outside[0])
    home = next((f for f in source.folders if (f / first).exists()), source.folders[0])
    sizes = {
        location: _size(source, home, location)
        for location in {_location(source, tensor) for tensor in outside}
    }
    for tensor in outside:
        start, length = _extent(source, tensor, sizes[_location(source, tensor)])
        if start + length > sizes[_location(source, tensor)]:
            raise _refused(source, tensor, "the file is too short for it; copy it again")
    return source.at(home)


def load(source: Source, tensor: TensorProto) -> TensorProto:
    """Return a tensor with its data, which are read from its file where it is without them."""
    if not is_external(tensor):
        return tensor
    found = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    with _opened(source, tensor) as (file, length):
        found.raw_data = file.read(length)
    if len(found.raw_data) < length:
        raise _refused(source, tensor, "the file is too short for it; copy it again")
    return found


def _load_floats(source: Source, tensor: TensorProto) -> NDArray[np.float32]:
    """Return the elements of a float32 tensor that is external or left in the model's file.

    Unlike `load`, it holds them once only.
    """
    array = np.empty(tuple(tensor.dims), "<f4")
    with _opened(source, tensor) as (file, length):
        if file.readinto(array) < length:  # type: ignore[attr-defined]  # IO lacks it
            raise _refused(source, tensor, "the file is too short for it; copy it again")
    return array.astype(np.float32, copy=False)


def load_array(source: Source, tensor: TensorProto) -> NDArray[Any]:
    """Return the elements of a tensor, read from its file where it is without them."""
    if is_external(tensor) and tensor.data_type == TensorProto.FLOAT:
        return _load_floats(source, tensor)
    array: NDArray[Any] = numpy_helper.to_array(load(source, tensor))
    return array


@contextmanager
def _opened(source: Source, tensor: TensorProto) -> Iterator[tuple[IO[bytes], int]]:
    """Give the file in which a tensor's data are, at their start, and their length."""
    if _held(source, tensor):
        start, length = source.places[tensor.name]
        with source.stream() as file:
            file.seek(start)
            yield file, length
        return
    location = _location(source, tensor)
    start, length = _extent(source, tensor, _size(source, Path(source.folder), location))
    try:
        with open(Path(source.folder) / location, "rb") as file:
            file.seek(start)
            yield file, length
    except OSError as error:
        raise _refused(source, tensor, f"{error.strerror}; check the file") from error


def _held(source: Source, tensor: TensorProto) -> bool:
    """Return whether a tensor's data lie in the model's own file; see `Source.outline`."""
    return tensor.name in source.places and not tensor.external_data


def is_beside(tensor: TensorProto) -> bool:
    """Return whether a tensor's data lie in another file than the model's."""
    return is_external(tensor) and bool(tensor.external_data)


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def _refused(source: Source, tensor: TensorProto, reason: str) -> ModelFileError:
    location = _entries(tensor).get("location", "")
    return ModelFileError(
        f"the weights of {tensor.name!r} cannot be read from {location!r}, the external data of "
        f"{source.name}: {reason}"
    )


def _location(source: Source, tensor: TensorProto) -> str:
    location = _entries(tensor).get("location", "")
    parts = location.replace("\\", "/").split("/")
    drive = len(location) > 1 and location[1] == ":"
    if not location or "\0" in location or location.startswith(_MEMORY_MARK):
        raise _refused(source, tensor, "that is no file name; export the model again")
    if drive or parts[0] == "" or ".." in parts:
        raise _refused(
            source, tensor, "it leaves the model's folder; move the data beside the model"
        )
    return location


def _size(source: Source, home: Path, location: str) -> int:
    tensor = TensorProto(name=location)
    tensor.external_data.add(key="location", value=location)
    try:
        real = (home / location).resolve(strict=True)
        status = os.stat(real)
    except (OSError, RuntimeError) as error:  # a circle of links is a RuntimeError
        reason = getattr(error, "strerror", None) or "its links lead nowhere"
        raise _refused(source, tensor, f"{reason}; put it beside the model") from error
    if not any(real.is_relative_to(folder.resolve()) for folder in source.folders):
        raise _refused(
            source, tensor, "it leaves the model's folder; move the data beside the model"
        )
    if not stat.S_ISREG(status.st_mode):
        raise _refused(source, tensor, "that is no plain file; put the data beside the model")
    return status.st_size


def _extent(source: Source, tensor: TensorProto, size: int) -> tuple[int, int]:
    """Return where a tensor's bytes start and how many there are."""
    entries, expected = _entries(tensor), byte_size(tensor)
    try:
        start = int(entries.get("offset") or 0)
        length = int(entries.get("length") or (size - start if expected is None else expected))
    except ValueError as error:
        raise _refused(source, tensor, "offset or length is no number") from error
    if start < 0 or length < 0 or (expected is not None and length != expected):
        raise _refused(
            source, tensor, f"offset {start} and length {length} do not fit its shape "
            f"{list(tensor.dims)}; export the model again",
        )  # fmt: skip
    return start, length
