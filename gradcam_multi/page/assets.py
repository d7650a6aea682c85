"""Files that travel inside a page, and text that is safe to stand in one."""

import base64
import hashlib
import json
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from gradcam_multi.colormaps import colormap_names, lookup_table


def asset(package: str, name: str) -> str:
    """Return the text of a file of a package of this project."""
    return files(f"gradcam_multi.{package}").joinpath(name).read_text(encoding="utf-8")


def script_json(value: Any) -> str:
    """Return JSON that may stand in a script element, whatever text it holds.

    Raises ValueError for NaN and infinity, which JSON has no words for.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Nothing in it can close the element or open a comment (HTML, 13.2.5.4); the two separators
    # end a line in older scripts.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def colour_tables() -> dict[str, str]:
    """Return every colour map's 256 RGB entries in base64, by name."""
    tables = {name: lookup_table(name).tobytes() for name in colormap_names()}
    return {name: base64.b64encode(table).decode() for name, table in tables.items()}


def policy(scripts: Iterable[str], **more: str) -> str:
    """Return a Content-Security-Policy under which a page runs these scripts and asks for nothing.

    `more` are directives added to, with an underscore for the hyphen: ``connect_src="'self'"``.
    A browser then holds the page to it, whatever is in its texts.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    directives = {
        "default-src": "'none'",
        "script-src": hashes,
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    for name, value in more.items():
        key = name.replace("_", "-")
        directives[key] = f"{directives.get(key, '')} {value}".strip()
    return "; ".join(f"{name} {value}" for name, value in directives.items() if value)
