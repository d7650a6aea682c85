"""What an explanation holds, and the forms it can be kept in."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam_multi.cam import Status, heatmaps, rescale
from gradcam_multi.errors import ImageError
from gradcam_multi.probabilities import of_classes, of_targets, saturated
from gradcam_multi.spec import Array
from gradcam_multi.targets import Activation, AnyTarget, class_name

if TYPE_CHECKING:  # Pillow is imported when a picture is asked for
    from PIL import Image

    from gradcam_multi.geometry import Geometry

STATUS_NOTES: dict[Status, str] = {
    "ok": "",
    "all_negative": "evidence against the target only; try another target, or method hirescam",
    "zero_gradient": "the score does not change with this layer here; try another layer or target",
    "constant": "every cell counts the same; try a layer with a finer grid",
    "nonfinite": "inputs, activations or gradients hold NaN or infinity; check inputs and weights",
}
"""What each status means and what to do about it, in a line."""


@dataclass(frozen=True)
class Explanation:
    """Where a model looked, for a batch of N items; indexing gives that of a part of the batch.

    `cam` (N, *grid) float32 is the map before resizing; `status` says for each item what it is
    worth. `scores` (N,) float64 are what was differentiated, `targets` the resolved targets,
    `outputs` (N, ...) float32 what the model returned and `logits` the same before a final softmax
    or sigmoid. `layer`, `method`, `backend` and `output` name what was used; `size` is the spatial
    size of the input, `labels` the class names where they were given. `seed` is that of the
    method's random numbers, `cost` its number of forward passes an item, the layer's own included.
    `attribution` (N, channels, *size), channels first, is what a method of input gradients found
    for each value of the input, signed; None for the others.
    """

    cam: Array
    status: tuple[Status, ...]
    scores: np.ndarray
    targets: tuple[AnyTarget, ...]
    outputs: Array
    logits: Array
    layer: str
    method: str
    backend: str
    output: str
    size: tuple[int, ...]
    activation: Activation = None
    labels: Sequence[str] | None = field(default=None, repr=False)
    seed: int = 0
    cost: int = 1
    attribution: Array | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.cam)

    def __getitem__(self, key: int | slice) -> "Explanation":
        if not isinstance(key, slice):
            start = range(len(self))[key]
            key = slice(start, start + 1)
        parts = {name: getattr(self, name)[key] for name in ("status", "targets", *self._held())}
        return Explanation(**{**self._fields(), **parts})

    def __iter__(self) -> Iterator["Explanation"]:
        return (self[index] for index in range(len(self)))

    def _held(self) -> list[str]:
        """Names of the arrays that hold a row an item."""
        names = ("cam", "scores", "outputs", "logits", "attribution")
        return [name for name in names if getattr(self, name) is not None]

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @staticmethod
    def concatenate(parts: Sequence["Explanation"]) -> "Explanation":
        """Join explanations of one model, layer and method along the batch axis."""
        if len(parts) == 1:
            return parts[0]
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in parts[0]._held()
        }
        joined |= {
            name: tuple(entry for part in parts for entry in getattr(part, name))
            for name in ("status", "targets")
        }
        return Explanation(**{**parts[0]._fields(), **joined})

    @cached_property
    def heatmap(self) -> Array:
        """(N, *input spatial) float32 in [0, 1]: the map resized, then min-max scaled per item."""
        return heatmaps(self.cam, self.size)

    @property
    def classes(self) -> tuple[int | None, ...]:
        """The class index that each target is about, or None where it is about none."""
        return tuple(getattr(target, "index", None) for target in self.targets)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(N,) float64: the probability of each target's class; NaN where it is about none."""
        return of_targets(self.targets, lambda: self.class_probabilities)

    @cached_property
    def class_probabilities(self) -> np.ndarray:
        """(N, classes) float64: the probability of every class, where the output is class scores.

        Raises TargetError where it is none.
        """
        return of_classes(self.outputs, self.logits, self.output, self.activation)

    @cached_property
    def saturated(self) -> np.ndarray:
        """(N,) bool: whether the score is a probability above 0.99 whose logit is out of reach."""
        if self.activation is not None:
            return np.zeros(len(self), np.bool_)
        return saturated(self.targets, self.logits, self.output)

    def name(self, index: int = 0) -> str:
        """What an item's target is called: the class's label, or its index, or what is asked."""
        target = self.targets[index]
        number = getattr(target, "index", None)
        describe = getattr(target, "describe", None)
        if describe is not None:
            return str(describe(self.labels))
        return str(target) if number is None else class_name(number, self.labels)

    def overlay(
        self,
        images: Any,
        *,
        geometry: "Geometry | Sequence[Geometry] | None" = None,
        alpha: float = 0.5,
        colormap: str | None = None,
    ) -> np.ndarray:
        """Lay the heatmaps over pictures, (N, H, W, 3) uint8 RGB; returns the same shape.

        The pictures may have any size: the map is resized to it. `geometry`, as `Preprocess.apply`
        returns it, says where the model's input lies in the picture where that was cropped; one
        for all or one an item. Raises ImageError where pictures and maps do not go together.
        """
        from gradcam_multi.colormaps import DEFAULT_COLORMAP
        from gradcam_multi.overlay import overlay

        pictures = np.asarray(images)
        if pictures.ndim == 3:
            pictures = pictures[None]
        if pictures.ndim != 4 or len(pictures) != len(self) or pictures.dtype != np.uint8:
            raise ImageError(
                f"overlay needs {len(self)} pictures as (N, H, W, 3) uint8, found "
                f"{pictures.dtype} {pictures.shape}; pictures of several sizes are overlaid one "
                "by one: explanation[i].overlay(image)"
            )
        maps = self.heatmaps_on(pictures.shape[1:3], geometry)
        return overlay(pictures, maps, alpha=alpha, colormap=colormap or DEFAULT_COLORMAP)

    def heatmaps_on(
        self, size: tuple[int, int], geometry: "Geometry | Sequence[Geometry] | None" = None
    ) -> Array:
        """Return the heatmaps (N, H, W) in [0, 1] on pictures of this size, straight from the map.

        Outside of what the model saw they are NaN. Raises ImageError for maps that are not 2-D.
        """
        if self.cam.ndim != 3:
            raise ImageError(
                f"the map of {self.layer!r} has {self.cam.ndim - 1} spatial axes, not 2"
            )
        if geometry is None:
            return heatmaps(self.cam, size)
        each = geometry if isinstance(geometry, Sequence) else [geometry] * len(self)
        maps = np.stack([g.restore(m, fill=np.nan) for g, m in zip(each, self.cam, strict=True)])
        unseen = np.isnan(maps)
        scaled = rescale(np.where(unseen, np.nanmin(maps, (1, 2), keepdims=True), maps))
        scaled[unseen] = np.nan
        return scaled

    def to_pil(self, images: Any = None, **options: Any) -> "Image.Image":
        """Draw the items side by side, each titled with its target and probability.

        `images` and `options` are those of `overlay`; without pictures the heatmaps stand alone.
        """
        from gradcam_multi.gallery import gallery

        return gallery(self, images, **options)

    def save(self, path: str | Path, images: Any = None, **options: Any) -> Path:
        """Write a picture (.png, .jpg), a page (.html), all arrays (.npz) or a record (.json).

        `options` are those of `to_pil`, for a page `geometry`. Returns the path. Raises ValueError
        for any other ending.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind in (".png", ".jpg", ".jpeg"):
            self.to_pil(images, **options).save(path)
        elif kind == ".html":
            from gradcam_multi.page import page_of, rows_of

            page_of(rows_of(self, images, **options), len(self)).write(path)
        elif kind == ".npz":
            np.savez_compressed(path, allow_pickle=False, **self._arrays())
        elif kind == ".json":
            path.write_text(json.dumps(self.records(), indent=2) + "\n", encoding="utf-8")
        else:
            raise ValueError(
                f"cannot save {path.name!r}: the endings are .png, .jpg, .html, .npz, .json"
            )
        return path

    def _arrays(self) -> dict[str, np.ndarray]:
        text = {name: getattr(self, name) for name in ("layer", "method", "backend", "status")}
        return {
            **{name: getattr(self, name) for name in self._held()},
            "heatmap": self.heatmap,
            "classes": np.array([-1 if c is None else c for c in self.classes]),
            **{name: np.array(value) for name, value in text.items()},
        }

    def records(self) -> list[dict[str, Any]]:
        """Return one JSON-ready record an item; `peak` is the heatmap's (row, column)."""
        from gradcam_multi import __version__

        records = []
        for i, (cam, heat) in enumerate(zip(self.cam, self.heatmap, strict=True)):
            p = float(self.probabilities[i])
            records.append(
                {
                    "class": self.classes[i],
                    "label": self.name(i),
                    "target": type(self.targets[i]).__name__,
                    "score": float(self.scores[i]),
                    "probability": None if np.isnan(p) else p,
                    "status": self.status[i],
                    "layer": self.layer,
                    "method": self.method,
                    "backend": self.backend,
                    "seed": self.seed,
                    "cost": self.cost,
                    "peak": [int(n) for n in np.unravel_index(heat.argmax(), heat.shape)],
                    "cam": cam.tolist(),
                    "version": __version__,
                }
            )
        return records

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        from gradcam_multi.page.notebook import mimebundle

        return mimebundle(self)

    def _repr_png_(self) -> bytes | None:
        from io import BytesIO

        if self.cam.ndim != 3:  # no picture: a notebook shows the text
            return None

        stream = BytesIO()
        self.to_pil().save(stream, "PNG")
        return stream.getvalue()
