"""Models handed to ONNX Runtime as files: bytes are held three times while they are parsed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from gradcam_multi_onnx.outline import appended, outline
from gradcam_multi_onnx.source import Source

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Parts: TypeAlias = Callable[[Path], Iterable[Any]]
"""What a file consists of, one after the other, given the folder that it lies in."""

_CHUNK = 1 << 20


@contextmanager
def written(parts: Parts) -> Iterator[Path | None]:
    """Give a file for as long as a session is made, or None where there is no room for one."""
    with ExitStack() as stack:
        path = None
        try:
            folder = TemporaryDirectory(prefix="gradcam_multi_", ignore_cleanup_errors=True)
            path = Path(stack.enter_context(folder)) / "model.onnx"
            with open(path, "wb") as file:
                for part in parts(path.parent):
                    file.write(part)
        except OSError:
            path = None
        yield path


def extended(source: Source, addition: bytes, lent: Arrays) -> Parts:
    """Return a model and what is added to it: protobuf merges concatenated messages.

    What is lent is not in it but beside it: ONNX Runtime reads it only where it fuses a weight with
    another.
    """

    def parts(folder: Path) -> Iterator[Any]:
        with source.stream() as original:
            if lent:
                yield outline(original, source.size, _moved(folder, lent))[0]
            else:
                yield from iter(partial(original.read, _CHUNK), b"")
        yield addition

    return parts


def _moved(folder: Path, lent: Arrays) -> dict[str, tuple[str, int]]:
    """Write weights to a folder and return where they are: file and offset."""
    places, name = {}, "lent"
    with open(folder / name, "wb") as file:
        for weight, array in lent.items():
            places[weight] = name, file.tell()
            file.write(array.data)
    return places


def completed(model: onnx.ModelProto, weights: Arrays) -> Parts:
    """Return a model with initialisers that it lacks."""

    def parts(_: Path) -> Iterator[Any]:
        yield model.SerializeToString()
        for name, array in weights.items():
            code = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            yield appended(TensorProto(name=name, data_type=code, dims=array.shape), array.nbytes)
            stored = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            yield stored.reshape(-1).data

    return parts
