"""The page with its model: a folder of files, or one file that holds all of them."""

import base64
import gzip
import re
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from gradcam_multi.colormaps import DEFAULT_COLORMAP
from gradcam_multi.errors import ExportError
from gradcam_multi.export import export
from gradcam_multi.live.runtime import Runtime, find_runtime
from gradcam_multi.page.assets import asset, colour_tables, policy, script_json
from gradcam_multi.picture_input import PictureInput
from gradcam_multi.plugins import installed

MODEL = "model.onnx"
_ASSETS = {
    "page.css": "page",
    "live.css": "live",
    "maps.js": "page",
    "input.js": "live",
    "model.js": "live",
    "live.js": "live",
    "worker.js": "live",
}
"""The page's own files beside index.html, and the package of each."""

LARGEST = 350_000_000
"""Bytes that one file may hold: browsers keep no text of more than about 500 MB."""

# What the page may do: run its own scripts and WebAssembly, read from where it came, and nothing
# else. The runtime and the worker are started from memory, which is what blob: is for.
_ALLOWED = {
    "script_src": "'self' blob: 'wasm-unsafe-eval'",
    "worker_src": "'self' blob:",
    "connect_src": "'self' blob:",
    "style_src": "'self'",
    "img_src": "blob:",
    "media_src": "blob: mediastream:",
}


def write_live(
    model: Any,
    path: str | Path,
    *,
    single_file: bool = False,
    runtime: str | None = None,
    labels: Sequence[str] | None = None,
    title: str | None = None,
    backend: str | None = None,
    trust: bool = False,
    **options: Any,
) -> Path:
    """Write a page that explains pictures with this model in a browser; return its path.

    `path` is a folder, made where there is none: index.html, the model as a heatmap file, and
    the runtime's files. With `single_file` it is one HTML file (index.html in it, where `path`
    does not end in .html) that works from the disk, too. `runtime` is what `find_runtime` takes;
    `options` are those of `gradcam_multi.export`: preprocess, layer, method, inputs, output, grid.

    Raises what `find_runtime` and `export` raise, InputError for a model that takes no picture, and
    ExportError where the page cannot be written.
    """
    name = Path(model).name if isinstance(model, str | Path) else f"the {type(model).__name__}"
    found = find_runtime(runtime)
    PictureInput.of(installed().open(model, backend, trust), name)
    target = Path(path)
    if not (single_file and target.suffix.lower() == ".html"):
        target = target / "index.html"
    config = {
        "title": title or f"Where {name} looks",
        "labels": list(labels) if labels else None,
        "tables": colour_tables(),
        "colormap": DEFAULT_COLORMAP,
    }
    shared: dict[str, Any] = {
        **options, "backend": backend, "trust": trust, "class_input": "required",
    }  # fmt: skip
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if single_file:
            with tempfile.TemporaryDirectory() as folder:
                exported = export(model, Path(folder) / MODEL, **shared).read_bytes()
            target.write_text(_one_file(exported, found, config), encoding="utf-8")
        else:
            export(model, target.parent / MODEL, **shared)
            _write_folder(target, found, config)
    except OSError as error:
        raise ExportError(
            f"cannot write to {str(target.parent)!r}: {error.strerror}; give another folder"
        ) from error
    return target


def _write_folder(index: Path, runtime: Runtime, config: dict[str, Any]) -> None:
    for name, package in _ASSETS.items():
        (index.parent / name).write_text(asset(package, name), encoding="utf-8")
    folder = index.parent / "runtime"
    folder.mkdir(exist_ok=True)
    for name, content in runtime.by_name().items():
        (folder / name).write_bytes(content)
    # Last, so that a page is never there without what it needs.
    page = asset("live", "index.html").replace("{policy}", folder_policy())
    index.write_text(page.replace("{config}", script_json(config)), encoding="utf-8")


def folder_policy() -> str:
    """Return the Content-Security-Policy of the page in a folder."""
    return policy((), **_ALLOWED)


def _one_file(model: bytes, runtime: Runtime, config: dict[str, Any]) -> str:
    """The page with every file in it: scripts and styles as text, the rest compressed."""
    carried = {
        MODEL: model,
        "worker.js": asset("live", "worker.js").encode(),
        **{f"runtime/{name}": content for name, content in runtime.by_name().items()},
    }
    size = sum(map(len, carried.values()))
    if size > LARGEST:
        raise ExportError(
            f"one file of {size / 1e6:.0f} MB is more than browsers read ({LARGEST / 1e6:.0f} MB): "
            "write a folder, without --single-file, and serve it"
        )
    scripts: list[str] = []

    def script(match: re.Match[str]) -> str:
        scripts.append(asset(_ASSETS[match[1]], match[1]))
        return f"<script>{scripts[-1]}</script>"

    def style(match: re.Match[str]) -> str:
        return f"<style>\n{asset(_ASSETS[match[1]], match[1])}</style>"

    page = asset("live", "index.html")
    page = re.sub(r'<link rel="stylesheet" href="([^"]+)">', style, page)
    page = re.sub(r'<script src="([^"]+)"></script>', script, page)
    files = "".join(_carried(name, content) for name, content in carried.items())
    page = page.replace(
        '<script type="application/json"', f'{files}<script type="application/json"'
    )
    allowed = {**_ALLOWED, "script_src": "blob: 'wasm-unsafe-eval'", "worker_src": "blob:"}
    page = page.replace("{policy}", policy(scripts, **{**allowed, "connect_src": "blob:"}))
    return page.replace("{config}", script_json(config))


def _carried(name: str, content: bytes) -> str:
    """A file within the page; mtime 0, so that the same page is the same file."""
    text = base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    return f'<script type="text/plain" id="file:{escape(name)}">{text}</script>\n'
