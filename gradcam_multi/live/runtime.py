"""ONNX Runtime Web's files: from the package that brings them, a folder, or an address."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from gradcam_multi.errors import ExportError, MissingExtraError

PACKAGE = "gradcam_multi_web"
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
NOTICES = "NOTICES.txt"
"""Licences of the runtime and of what is in it, where a copy has them."""
_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Runtime:
    """The content of the runtime's files, and of its notices; they are empty where there are none.

    `source` says where they came from.
    """

    script: bytes
    wasm: bytes
    notices: bytes
    source: str

    def by_name(self) -> dict[str, bytes]:
        """Return the files under their names."""
        named = dict(zip((*FILES, NOTICES), (self.script, self.wasm, self.notices), strict=True))
        return {name: content for name, content in named.items() if content}


def find_runtime(given: str | None = None) -> Runtime:
    """Read the runtime from a folder or an address (https, or http of this machine).

    Where none is given, from the installed package `gradcam-multi-web`. From an address the files
    are fetched now, so that a page never has to.

    Raises MissingExtraError where the package is absent, ExportError where files are.
    """
    if given is None:
        return _installed()
    if "://" in given:
        return _fetched(given)
    folder = Path(given)
    try:
        script, wasm = ((folder / name).read_bytes() for name in FILES)
    except OSError as error:
        raise ExportError(
            f"no runtime in {given!r}: {Path(str(error.filename)).name}: {error.strerror}; give a "
            f"folder with {' and '.join(FILES)}, such as node_modules/onnxruntime-web/dist"
        ) from error
    notices = folder / NOTICES
    return _checked(script, wasm, notices.read_bytes() if notices.is_file() else b"", given)


def _installed() -> Runtime:
    try:
        folder = files(PACKAGE).joinpath("runtime")
        script, wasm = (folder.joinpath(name).read_bytes() for name in FILES)
        notices = folder.joinpath(NOTICES).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise MissingExtraError(
            "ONNX Runtime Web is not installed, which the page runs the model with: "
            'pip install "gradcam-multi[web]", or name a copy with --runtime'
        ) from error
    return _checked(script, wasm, notices, PACKAGE)


def _fetched(address: str) -> Runtime:
    parts = urlsplit(address)
    if parts.scheme != "https" and (parts.scheme != "http" or parts.hostname not in _LOCAL):
        raise ExportError(
            f"the runtime at {address!r} would be read unprotected: give an https address, a folder"
        )
    contents = []
    for name in FILES:
        try:
            with urlopen(f"{address.rstrip('/')}/{name}", timeout=60) as answer:
                contents.append(answer.read())
        except (URLError, OSError, ValueError) as error:
            raise ExportError(
                f"no runtime at {address!r}: {name}: {getattr(error, 'reason', error)}; give the "
                "address of a folder with the files of onnxruntime-web/dist"
            ) from error
    return _checked(contents[0], contents[1], b"", address)


def _checked(script: bytes, wasm: bytes, notices: bytes, source: str) -> Runtime:
    sound = b"onnx runtime web" in script[:200].lower(), wasm[:4] == b"\0asm"
    for name, right in zip(FILES, sound, strict=True):
        if not right:
            raise ExportError(
                f"{name} in {source!r} is not ONNX Runtime Web's: take the files of "
                "onnxruntime-web/dist, version 1.30"
            )
    return Runtime(script, wasm, notices, source)
