"""Takes ONNX Runtime Web's files from the npm package that package-lock.json pins."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
PACKAGE = "onnxruntime-web"


class RuntimeHook(BuildHookInterface):
    """Adds the runtime's files and its notices to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Install the pinned npm packages and name what goes into the wheel."""
        if version == "editable":
            return
        root = Path(self.root)
        if _installed(root) != _pinned(root):
            npm = shutil.which("npm")
            if npm is None:
                raise RuntimeError("building gradcam-multi-web needs npm, which comes with Node")
            # No scripts of packages are run: files are all that is wanted of them.
            subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=root, check=True
            )
        inside = "gradcam_multi_web/runtime"
        self._notices = tempfile.TemporaryDirectory()
        notices = Path(self._notices.name) / "NOTICES.txt"
        notices.write_text(_notices(root), encoding="utf-8")
        sources = [root / "node_modules" / PACKAGE / "dist" / name for name in FILES]
        for source in (*sources, notices):
            build_data["force_include"][str(source)] = f"{inside}/{source.name}"


def _pinned(root: Path) -> str:
    lock = json.loads((root / "package-lock.json").read_text(encoding="utf-8"))
    version: str = lock["packages"][f"node_modules/{PACKAGE}"]["version"]
    return version


def _installed(root: Path) -> str | None:
    path = root / "node_modules" / PACKAGE / "package.json"
    if not path.is_file():
        return None
    version: str = json.loads(path.read_text(encoding="utf-8"))["version"]
    return version


def _notices(root: Path) -> str:
    """Licences of the runtime, of the npm packages it is bundled with, and its own notices."""
    parts = [(f"ONNX Runtime Web {_pinned(root)}", root / "LICENSE-onnxruntime.txt")]
    lock = json.loads((root / "package-lock.json").read_text(encoding="utf-8"))
    parts += [
        (f"{place.removeprefix('node_modules/')} {entry['version']} ({entry['license']})", path)
        for place, entry in sorted(lock["packages"].items())
        for path in (sorted((root / place).glob("LICENSE*")) if place else ())
    ]
    parts.append(("Third-party software in ONNX Runtime", root / "THIRD-PARTY-NOTICES.txt"))
    line = "=" * 78
    return "\n".join(
        f"{line}\n{title}\n{line}\n\n{path.read_text(encoding='utf-8', errors='replace')}"
        for title, path in parts
    )
