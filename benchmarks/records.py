"""What was measured, as JSON: one file holds the records of many runs, each with its date.

A record says what was measured (experiment, model, batch, framework, who, method), in what unit,
its median with quartiles, the same of plain inference beside it, and their ratio. Its environment
is the machine and the versions it was measured with; neither names a host or a path.
"""

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

Record = dict[str, Any]

RESULTS = Path(__file__).parent / "results"
KEY = (
    "experiment", "framework", "version", "model", "batch", "method", "who", "size", "device",
)  # fmt: skip
"""What tells one record from another: a later run of the same replaces it."""

PACKAGES = (
    "gradcam-multi", "numpy", "torch", "tensorflow", "tensorflow-cpu", "keras", "onnx",
    "onnxruntime", "onnxruntime-gpu", "grad-cam", "torchcam", "captum", "tf-keras-vis", "xplique",
    "tf-explain", "opencv-python-headless", "pillow",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Return the machine and the versions of what is installed."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def runtime(framework: str) -> str | None:
    """Return the version of what computes for an adapter, without its third number."""
    names = {"onnx": ("onnxruntime-gpu", "onnxruntime"), "tensorflow": ("tensorflow-cpu",)}
    for name in (*names.get(framework, ()), framework):
        if version := _version(name):
            return ".".join(version.split(".")[:2])
    return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def load(path: Path) -> tuple[list[dict[str, Any]], list[Record]]:
    """Return the environments and the records of a file; none of a file that is not there."""
    if not path.exists():
        return [], []
    content = json.loads(path.read_text())
    return content["environments"], content["records"]


def merge(path: Path, found: list[Record]) -> None:
    """Add this process's records to a file, in place of older ones of the same key."""
    environments, records = load(path)
    here, today = environment(), datetime.now(UTC).date().isoformat()
    if here not in environments:
        environments.append(here)
    new = [record | {"environment": environments.index(here), "date": today} for record in found]
    replaced = {key(record) for record in new}
    kept = [record for record in records if key(record) not in replaced] + new
    used = sorted({record["environment"] for record in kept})
    content = {
        "environments": [environments[index] for index in used],
        "records": [
            r | {"environment": used.index(r["environment"])} for r in sorted(kept, key=_order)
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new_path = path.with_suffix(".new")  # whoever is stopped while writing leaves the old file
    new_path.write_text(json.dumps(content, indent=1) + "\n")
    new_path.replace(path)


def key(record: Record) -> tuple[Any, ...]:
    """Return what tells this record from others."""
    return tuple(record.get(name) for name in KEY)


def _order(record: Record) -> tuple[str, ...]:
    return tuple(f"{value:09d}" if isinstance(value, int) else str(value) for value in key(record))
