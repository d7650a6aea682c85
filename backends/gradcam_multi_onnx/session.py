"""ONNX Runtime sessions: quiet, with every optimisation, on the device that is really there."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from math import prod
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from gradcam_multi.errors import InputError, ModelFileError
from gradcam_multi_onnx.files import Parts, completed, extended, maps, referring, written
from gradcam_multi_onnx.source import Providers, Source

AnyArray = NDArray[Any]
Session: TypeAlias = "ort.InferenceSession"
_FATAL = 4
_FOLDER = "session.model_external_initializers_file_folder_path"
_UNPACKED = "session.disable_prepacking"
_SPINNING = "session.intra_op.allow_spinning"
_STOP_SPINNING = "session.force_spinning_stop"
_SMALL = 1 << 20  # bytes of a model that is handed over in memory
_LIGHT = 1 << 21  # and of one without its weights,
_PART = 16  # or that part of a large one
_MUCH = 1 << 24  # bytes of weights that are not handed over in memory
_HEAVY = 1 << 23  # weights, a guess between a classifier (2 million) and VGG's (120 million)
_CUDA: Providers = (("CUDAExecutionProvider", {}),)
_CPU: Providers = (("CPUExecutionProvider", {}),)


def make_session(
    data: bytes | Path, providers: Providers | None = None, folder: str = "", threads: int = 0,
    lent: Mapping[str, "ort.OrtValue"] = MappingProxyType({}), *, frugal: bool = False,
) -> Session:  # fmt: skip
    """Return a session for a serialised model; `folder` is where its external data lies.

    `threads` is 0 for as many as ONNX Runtime takes by itself; a number is for whoever has other
    work for the cores, so that these threads do not spin. The initialisers `lent` are used where
    they are, by several sessions at once. A `frugal` one runs of what it can run the first of the
    file, so that what is put there lets go at once of what it reads, and takes memory value by
    value; otherwise values that are read from outside may stay to the end, and each run takes what
    the first one took in one piece, as much again, which is 3 % faster for many small values.
    Raises ModelFileError where ONNX Runtime refuses the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads
    if frugal:
        options.enable_mem_pattern = False
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # Of two sessions in turn, the waiting threads of one would take the cores from the other.
    options.add_session_config_entry(_STOP_SPINNING, "1")
    if threads:
        options.add_session_config_entry(_SPINNING, "0")
    if folder:
        options.add_session_config_entry(_FOLDER, folder)
    for name, value in lent.items():
        options.add_initializer(name, value)
    if lent:  # else each session has a copy of its own, in another order
        options.add_session_config_entry(_UNPACKED, "1")
    chosen = providers if providers is not None else default_providers()
    try:
        session = ort.InferenceSession(
            data if isinstance(data, bytes) else str(data), options,
            providers=[(name, dict(settings)) for name, settings in chosen],
        )  # fmt: skip
        session.lent = lent  # ONNX Runtime has their address only
        if session.get_providers() == ["CPUExecutionProvider"]:
            # Kept for a second attempt on the CPU, and as large as the weights.
            session._model_bytes = None
        return session
    except Exception as error:  # each refusal has a class of its own, all outside a common root
        raise ModelFileError(f"ONNX Runtime refuses the model: {one_line(error)}") from error


def threads_for(graph: onnx.GraphProto, apart: Iterable[AnyArray]) -> int:
    """Return how many threads a graph is worth, with weights that lie `apart`: 0 for all, or 1.

    The forward session's threads still spin when another starts: where there is little to compute,
    waking more of them costs ten times what they save (0.6 against 6 ms).
    """
    weights = sum(prod(tensor.dims) for tensor in graph.initializer)
    weights += sum(array.size for array in apart)
    convolves = any(node.op_type.startswith("Conv") for node in graph.node)
    return 0 if weights > _HEAVY or convolves else 1


def run(
    session: Session, feeds: Mapping[str, AnyArray], names: Iterable[str]
) -> dict[str, AnyArray]:
    """Run a session and return the named outputs. Raises InputError where the run fails."""
    wanted = list(names)
    try:
        return dict(zip(wanted, session.run(wanted, dict(feeds)), strict=True))
    except Exception as error:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feeds.items())
        raise InputError(
            f"the model fails on these inputs ({shapes}): {one_line(error)}; "
            "check their shapes, or give the items one by one"
        ) from error


def one_line(error: BaseException) -> str:
    """Return an exception's message without line breaks."""
    return " ".join(str(error).split())


@cache
def default_providers() -> Providers:
    """Return CUDA before CPU where ONNX Runtime really runs on it, else CPU alone."""
    if "CUDAExecutionProvider" in ort.get_available_providers() and _has_cuda_device():
        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy")
        graph = onnx.helper.make_graph([node], "probe", [x], [y])
        opset = onnx.helper.make_opsetid("", 13)
        model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
        # The wheel lists CUDA wherever it was compiled in; only a session shows whether it loads.
        session = make_session(model.SerializeToString(), _CUDA + _CPU)
        if "CUDAExecutionProvider" in session.get_providers():
            return _CUDA + _CPU
    return _CPU


def _has_cuda_device() -> bool:
    # Asking the driver first keeps ONNX Runtime from complaining on machines without a GPU.
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return False
    count = ctypes.c_int(0)
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return bool(found and count.value > 0)


class Forward:
    """The original model, weights untouched, with more of its values as outputs.

    Initialisers `lent` are used where they are. `nodes` are added to the graph's.
    """

    def __init__(
        self, source: Source, own: Iterable[str], extra: Iterable[str],
        lent: Mapping[str, AnyArray] = MappingProxyType({}), nodes: Iterable[onnx.NodeProto] = (),
    ) -> None:  # fmt: skip
        self.names = tuple(dict.fromkeys((*own, *extra)))
        addition = onnx.ModelProto()
        addition.graph.node.extend(nodes)
        for name in sorted(set(extra) - set(own)):
            addition.graph.output.add().name = name
        source = source.as_frugal(len(addition.graph.node) > 0)
        self._opening = Later(partial(_extended, source, addition.SerializeToString(), lent))

    @property
    def session(self) -> Session:
        """The session, which a thread opens. Raises ModelFileError."""
        return self._opening.result()

    def __call__(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return all values, by name, as the model computes them."""
        return run(self.session, feeds, self.names)


class Later:
    """A session that is opened while its owner does something else: most of that is native."""

    def __init__(self, open_session: Callable[[], Session]) -> None:
        self._open, self._thread = open_session, Thread(target=self._run)
        self._session: Session | None = None
        self._error: Exception | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            self._session = self._open()
        except Exception as error:  # raised where the result is asked for
            self._error = error
        del self._open

    def result(self) -> Session:
        """Wait for the session. Raises what opening it raised."""
        self._thread.join()
        if self._session is None:
            assert self._error is not None
            raise self._error
        return self._session


def _extended(source: Source, addition: bytes, lent: Mapping[str, AnyArray]) -> Session:
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in lent.items()}
    if source.size > _SMALL and not source.folder:
        found = _mapped(source, addition, values)
        found = found or _from_file(extended(source, addition), source, source.threads, values)
        if found is not None:
            return found
    data = addition + source.read()
    return _session_of(data, source, source.folder, source.threads, values)


def _mapped(
    source: Source, addition: bytes, lent: Mapping[str, "ort.OrtValue"]
) -> "Session | None":
    """Return a session that reads the weights from the model's file, or a copy, without parsing.

    None where that cannot be done. What stays mapped would change with the file, or end the process
    where it is cut short: the model's own file must not, only the copy, which nobody else has.
    """
    removable = os.name == "posix"  # elsewhere a file that is mapped stays
    if not removable or not on_cpu(source.providers):
        return None
    own = source.path and _referring(source, addition, source.path.resolve(), lent)
    if own and source.path and not maps(source.path.resolve()):
        return own
    del own
    with written(extended(source, b"")) as copy:
        return copy and _referring(source, addition, copy, lent)


def _referring(
    source: Source, addition: bytes, path: Path, lent: Mapping[str, "ort.OrtValue"]
) -> "Session | None":
    try:
        data = referring(source, addition, path.name, lent)
        if len(data) > max(_LIGHT, source.size // _PART):  # too much of it is no such weight
            return None
        session = _session_of(data, source, str(path.parent), source.threads, lent)
    except Exception:  # reading the whole model tells what is wrong with it
        return None
    _trim()
    return session


def completed_session(
    model: onnx.ModelProto, weights: Mapping[str, AnyArray], source: Source, threads: int = 0
) -> Session:
    """Return a session for a model made of another's parts, with initialisers that it lacks.

    `source` is the other; see `make_session`.
    """
    threads = threads or source.threads
    parts = completed(model, weights)
    if sum(array.nbytes for array in weights.values()) > _MUCH and not source.folder:
        found = _from_file(parts, source, threads)
        if found is not None:
            return found
    data = b"".join(parts(Path()))
    return _session_of(data, source, source.folder, threads)


def _from_file(
    parts: Parts, source: Source, threads: int = 0,
    lent: Mapping[str, "ort.OrtValue"] = MappingProxyType({}),
) -> "Session | None":  # fmt: skip
    if not on_cpu(source.providers):  # a session on a GPU may want to read its model again
        return None
    with written(parts) as path:
        if path is None:
            return None
        try:
            session = _session_of(path, source, "", threads, lent)
            _trim()
            return session
        except ModelFileError as error:
            reason = str(error).replace(str(path), source.name)
            raise ModelFileError(reason) from error.__cause__


def _session_of(
    data: bytes | Path, source: Source, folder: str, threads: int,
    lent: Mapping[str, "ort.OrtValue"] = MappingProxyType({}),
) -> Session:  # fmt: skip
    return make_session(data, source.providers, folder, threads, lent, frugal=source.frugal)


def _trim() -> None:
    """Give back what was freed since: reading a model leaves up to its size in malloc's hands."""
    trim = getattr(_libc(), "malloc_trim", None)  # glibc alone has it, and alone needs it
    if trim is not None:
        trim(0)


@cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def on_cpu(providers: Providers | None) -> bool:
    """Return whether a model runs on the CPU alone, in the memory that NumPy has, too."""
    chosen = providers if providers is not None else default_providers()
    return all(name == "CPUExecutionProvider" for name, _ in chosen)


def as_float(array: AnyArray) -> AnyArray:
    """Return float16 values as float32; everything else unchanged."""
    return array.astype(np.float32) if array.dtype == np.float16 else array
