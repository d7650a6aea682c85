"""What an audit is of: the settings that decide its rows, recorded beside them."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gradcam_multi.audit.listed import Source
from gradcam_multi.explainer import Explainer
from gradcam_multi.preprocess import Preprocess

SCHEMA = 1
"""Of the table and of what is beside it; rises when a column changes its meaning or goes."""

PART = 512
"""Pictures in a part, unless asked otherwise."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What decides the rows of an audit, apart from the model and the source.

    Those that `Explainer` has are its own. `top` is for how many of the highest classes a map is
    kept besides the target's. `part` and `batch` are in pictures; None for the latter: as many as
    `sizes.items_at_once` says.
    """

    preprocess: Preprocess
    target: Any = None
    layer: str | Sequence[str] | None = None
    method: str = "gradcam"
    backend: str | None = None
    output: str | None = None
    labels: tuple[str, ...] | None = None
    guided: bool = False
    trust: bool = False
    grid: tuple[int, ...] | None = None
    top: int = 0
    part: int = PART
    batch: int | None = None

    def explainer(self, model: Any) -> Explainer:
        """Open a model as these settings have it."""
        return Explainer(
            model,
            layer=self.layer,
            method=self.method,
            backend=self.backend,
            output=self.output,
            labels=self.labels,
            guided=self.guided,
            trust=self.trust,
            grid=self.grid,
        )

    def record(self) -> Record:
        """Return the settings as JSON has them; without `backend` and `trust`, which open only."""
        layer = self.layer if isinstance(self.layer, str) or self.layer is None else [*self.layer]
        return {
            "preprocess": json.loads(self.preprocess.to_json()),
            "target": None if self.target is None else repr(self.target),
            "layer": layer,
            "method": self.method,
            "output": self.output,
            "labels": None if self.labels is None else list(self.labels),
            "guided": self.guided,
            "grid": None if self.grid is None else list(self.grid),
            "top": self.top,
            "part": self.part,
            "batch": self.batch,
        }


def model_record(model: Any, name: str, probe: Sequence[float]) -> Record:
    """Return what tells a model from another: its file's digest, and what it says of noise.

    `probe` are scores of a made-up picture: they tell models in memory apart too, and weights that
    lie beside a file.
    """
    digest = None
    if isinstance(model, (str, os.PathLike)) and Path(model).is_file():
        with open(model, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    elif isinstance(model, bytes):
        digest = hashlib.sha256(model).hexdigest()
    return {"name": name, "sha256": digest, "probe": [float(f"{score:.6g}") for score in probe]}


def source_record(source: Source, given: Any) -> Record:
    """Return what tells a source from another, and how it was given."""
    shown = os.path.abspath(given) if isinstance(given, (str, os.PathLike)) else None
    return {
        "kind": source.kind,
        "given": shown,
        "pictures": len(source),
        "digest": source.digest(),
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the settings in which two records differ, each with both values."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if key == "model" and a and b:
            if _same_model(a, b):
                continue
            found.append(f"the model ({a['name']}, now {b['name']})")
        elif key == "source" and a and b:
            if a["digest"] == b["digest"]:
                continue
            found.append(f"the source ({a['pictures']} pictures, now {b['pictures']})")
        elif a != b:
            found.append(f"{key} ({_short(a)}, now {_short(b)})")
    return found


def _same_model(old: Record, new: Record) -> bool:
    if old["sha256"] != new["sha256"] or len(old["probe"]) != len(new["probe"]):
        return False
    # Another machine rounds otherwise, and half precision to 2^-11 at each step.
    scale = np.abs(old["probe"]).max(initial=1e-30)
    return bool(np.allclose(old["probe"], new["probe"], rtol=0, atol=0.02 * scale))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
