"""The same images through two or more models: do they still look at the same place?"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.comparer import Comparer
from gradcam_multi.comparison import DEFAULT_DRIFT, Comparison, Limits
from gradcam_multi.errors import InputError
from gradcam_multi.images import load_image
from gradcam_multi.preprocess import Preprocess
from gradcam_multi.sizes import batch_count
from gradcam_multi.spec import Inputs


def compare(
    reference: Any,
    others: Any,
    inputs: Any,
    target: Any = None,
    *,
    other_inputs: Sequence[Inputs] | None = None,
    preprocess: Preprocess | str | Path | Sequence[Preprocess | str | Path] | None = None,
    layer: str | Sequence[str | None] | None = None,
    method: str = "gradcam",
    backend: str | Sequence[str | None] | None = None,
    output: str | Sequence[str | None] | None = None,
    labels: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    max_drift: float | None = DEFAULT_DRIFT,
    min_correlation: float | None = None,
    min_agreement: float | None = None,
    trust: bool = False,
) -> Comparison:
    """Put the same images through a reference and one or several other models; compare the maps.

    Models are what `Explainer` opens; `others` is one, or a list. `inputs` are a batch as the
    reference takes it: the others get the same with the channels where they want them, or each
    its own from `other_inputs`. With `preprocess`, `inputs` are a list of pictures instead (paths
    or (H, W, 3) uint8 RGB), and each model gets them in its own size and layout. `target` is the
    reference's, by default its top class, and the class that all are explained for.

    `preprocess`, `layer`, `backend` and `output` are one for all models, or a list of one a model,
    reference first; `names` are what the report calls the models. The limits decide
    `Comparison.passed`; the figures are defined in docs/compare.md.

    Raises what `Explainer` raises, InputError for lists and limits that do not fit, and TargetError
    for models that differ in the number of classes.
    """
    limits = Limits(max_drift, min_correlation, min_agreement)
    prepares = [
        p if isinstance(p, Preprocess) else Preprocess.named(p) for p in _listed(preprocess)
    ]
    comparer = Comparer(
        [reference, *(others if isinstance(others, list | tuple) else [others])],
        layers=_listed(layer) or [None],
        method=method,
        backends=_listed(backend) or [None],
        outputs=_listed(output) or [None],
        labels=labels,
        names=names,
        preprocess=prepares,
        trust=trust,
    )
    if prepares:
        for _ in comparer.pictures(_loaded(inputs), target):
            pass
        return comparer.result(limits)
    batches = [inputs, *(other_inputs or comparer.laid_out(inputs))]
    counts = [batch_count(batch) for batch in batches]
    if len(set(counts)) != 1 or len(batches) != len(comparer.names):
        raise InputError(
            f"{len(batches)} batches of {', '.join(map(str, counts))} items were given for "
            f"{len(comparer.names)} models: give each model the same images"
        )
    comparer.add(batches, [f"item {index}" for index in range(counts[0])], target)
    return comparer.result(limits)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _loaded(pictures: Any) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Pictures with names, read when their turn comes."""
    if isinstance(pictures, np.ndarray):
        pictures = [pictures] if pictures.ndim == 3 else list(pictures)
    for index, picture in enumerate(_listed(pictures)):
        named = isinstance(picture, str | os.PathLike)
        yield (os.fspath(picture) if named else f"item {index}"), load_image(picture)
