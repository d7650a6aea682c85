"""What a page shows of a picture: plain values, from wherever they come."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam import Status
from gradcam_multi.explanation import Explanation
from gradcam_multi.gallery import paired
from gradcam_multi.geometry import Geometry
from gradcam_multi.spec import Array

Box = tuple[float, float, float, float]
"""Top, left, bottom, right."""


@dataclass(frozen=True)
class ClassMap:
    """A class of a picture and, where it is kept, its map before resizing.

    `score` is what was differentiated, `probability` the class's, None where it has none; `cam` is
    (h, w), None where no map was made or kept.
    """

    name: str
    score: float | None = None
    probability: float | None = None
    cam: Array | None = None
    status: Status = "ok"


@dataclass(frozen=True)
class Row:
    """One picture with its classes, the one that is shown first at `shown`.

    `picture` is (H, W, 3) uint8 RGB, None where the maps stand alone. `view` is what the model saw
    of it, in pixels as `Geometry.box` has it; None for all. `label` is what the picture is said to
    show, `correct` whether the model agrees; None where that is not known. `error` says why the
    picture could not be read; `findings` are names of what was found, for the filter.
    """

    title: str
    picture: NDArray[np.uint8] | None = None
    classes: tuple[ClassMap, ...] = ()
    view: Box | None = None
    label: str | None = None
    correct: bool | None = None
    error: str | None = None
    findings: tuple[str, ...] = ()
    shown: int = 0


def explained_row(
    image: NDArray[np.uint8] | None,
    explanations: Sequence[Explanation],
    geometry: Geometry | None = None,
    title: str = "",
    shown: int = 0,
) -> Row:
    """Make the row of a picture from explanations of one item each, of several classes."""
    classes = []
    for explanation in explanations:
        p = float(explanation.probabilities[0])
        classes.append(
            ClassMap(
                name=explanation.name(0),
                score=float(explanation.scores[0]),
                probability=None if np.isnan(p) else p,
                cam=explanation.cam[0],
                status=explanation.status[0],
            )
        )
    return Row(title, image, tuple(classes), geometry.box if geometry else None, shown=shown)


def rows_of(
    explanation: Explanation,
    images: Any = None,
    geometry: Geometry | Sequence[Geometry] | None = None,
) -> Iterator[Row]:
    """Yield a row an item of a batch; without pictures the maps stand alone.

    Raises ImageError as `gradcam_multi.gallery.paired` does.
    """
    for number, (image, item, where) in enumerate(paired(explanation, images, geometry)):
        yield explained_row(image, [item], where, f"item {number}")
