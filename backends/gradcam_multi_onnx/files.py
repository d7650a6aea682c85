"""Models handed to ONNX Runtime as files: bytes are held three times while they are parsed."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from gradcam_multi_onnx.external import load
from gradcam_multi_onnx.order import reads
from gradcam_multi_onnx.outline import appended
from gradcam_multi_onnx.source import Source

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Parts: TypeAlias = Callable[[Path], Iterable[Any]]
"""What a file consists of, one after the other, given the folder that it lies in."""

_CHUNK = 1 << 20
_REORDERED = {"Conv", "ConvTranspose"}
"""Operators whose weights ONNX Runtime brings into the order in which it reads them fastest."""

_PACKED = {"Gemm", "MatMul"}
"""The same, unless sessions share weights."""


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


def extended(source: Source, addition: bytes) -> Parts:
    """Return a model behind what is added to it: protobuf merges concatenated messages."""

    def parts(_: Path) -> Iterator[Any]:
        yield addition
        with source.stream() as original:
            yield from iter(partial(original.read, _CHUNK), b"")

    return parts


def referring(source: Source, addition: bytes, name: str, lent: Collection[str] = ()) -> bytes:
    """Return the same without those weights that sessions copy into an order of their own.

    They are external, in a file of this name that holds the model as it is: ONNX Runtime maps them
    instead of parsing them, and lets go of them once they are copied. So are those that are `lent`,
    in whose presence it copies fewer of the others.
    """
    model, held = source.outline()
    packed = _REORDERED if lent else _REORDERED | _PACKED
    kept = {
        value for node in model.graph.node if node.op_type not in packed for value in reads(node)
    }
    for tensor in model.graph.initializer:
        if tensor.name in kept and tensor.name not in lent:
            tensor.CopyFrom(load(held, tensor))
        elif tensor.name in held.places:
            offset, length = held.places[tensor.name]
            for key, value in (("location", name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
    whole: bytes = model.SerializeToString()
    return addition + whole


def maps(path: Path) -> bool:
    """Return whether this process still maps a file, as Linux tells it; True where it cannot."""
    try:
        inode = str(path.stat().st_ino)
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return True
    # Address, rights, offset, device, inode, path; layered file systems show another inode.
    fields = [line.split(maxsplit=5) for line in lines]
    return any(f[4] == inode or f[5:] == [str(path)] for f in fields)


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
