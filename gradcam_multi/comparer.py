"""Models opened once and put beside each other, batch by batch."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.agreement import Field, agree
from gradcam_multi.comparison import Compared, Comparison, Limits
from gradcam_multi.errors import InputError, LayerError, TargetError
from gradcam_multi.explainer import CamWarning, Explainer
from gradcam_multi.explanation import Explanation
from gradcam_multi.geometry import Geometry
from gradcam_multi.pair import Maps, Pair
from gradcam_multi.picture_input import PictureInput
from gradcam_multi.preprocess import Preprocess
from gradcam_multi.spec import Inputs, Layout, Model
from gradcam_multi.targets import class_scores

BATCH = 8  # pictures at a time: memory stays flat, and the runtime has something to chew on
Where = Sequence[Geometry | None]
T = TypeVar("T")


class Comparer:
    """A reference and other models, opened once, to be compared batch by batch.

    `layers`, `backends`, `outputs` and `preprocess` hold one entry for all models or one a model,
    reference first; `preprocess` is needed for pictures only. The rest is that of `compare`.
    """

    def __init__(
        self,
        models: Sequence[Any],
        *,
        layers: Sequence[str | None] = (None,),
        method: str = "gradcam",
        backends: Sequence[str | None] = (None,),
        outputs: Sequence[str | None] = (None,),
        labels: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        preprocess: Sequence[Preprocess] = (),
        trust: bool = False,
    ) -> None:
        count = len(models)
        if count < 2:
            raise InputError(
                f"{count} model was given to compare: give a reference and at least one other"
            )
        self.names = _unique(
            one_each(names, count, "name") if names else [_name(m) for m in models]
        )
        self._prepares = one_each(preprocess, count, "preprocessing") if preprocess else []
        options = zip(
            models,
            one_each(layers, count, "layer"),
            one_each(backends, count, "backend"),
            one_each(outputs, count, "output"),
            strict=True,
        )
        self.explainers = [
            Explainer(
                model,
                layer=layer,
                method=method,
                backend=backend,
                output=output,
                labels=labels,
                trust=trust,
            )
            for model, layer, backend, output in options
        ]
        self._found: list[Compared] = []
        self._pairs: list[list[Pair]] = [[] for _ in models[1:]]

    def add(
        self,
        batches: Sequence[Inputs],
        images: Sequence[str],
        target: Any = None,
        geometries: Sequence[Where] | None = None,
    ) -> None:
        """Compare a batch of N images, given as each model takes it, reference first.

        `images` are the items' names; `target` is that of `Explainer`, resolved by the reference
        and explained for all. `geometries` say for each model and item where its input lies in the
        picture; left out, every input shows the whole of the same thing. Raises what `Explainer`
        raises, TargetError where the models differ in the number of classes and LayerError where
        their maps differ in rank.
        """
        where = geometries or [[None] * len(images)] * len(batches)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CamWarning)  # each pair says what its maps are worth
            reference = self.explainers[0](batches[0], target)
            found = [reference]
            for place, batch in enumerate(batches[1:], start=1):
                other = self.explainers[place](batch, list(reference.targets))
                self._check(reference, other, place)
                found.append(other)
        for place, other in enumerate(found[1:], start=1):
            pairs = self._pairs[place - 1]
            for i, image in enumerate(images):
                both = where[0][i], where[place][i]
                pairs.append(
                    _pair(len(pairs), image, self.names[place], reference[i], other[i], both)
                )
        if not self._found:
            self._found = [
                Compared(name, each.backend, each.layer, each.cam.shape[1:], each.size)
                for name, each in zip(self.names, found, strict=True)
            ]

    def pictures(
        self, pictures: Iterable[tuple[str, NDArray[np.uint8]]], target: Any = None
    ) -> Iterator[int]:
        """Compare pictures, (H, W, 3) uint8 RGB with their names; yield how many are done at once.

        Each goes through each model's preprocessing, to the model's own size and layout.
        """
        takes = [
            PictureInput.of(e.model, name)
            for e, name in zip(self.explainers, self.names, strict=True)
        ]
        # A size that one model leaves free is that of the first model that fixes it.
        fixed = next((each.size for each in takes if None not in each.size), (None, None))
        takes = [replace(e, size=fixed) if e.size == (None, None) else e for e in takes]
        given = iter(pictures)
        while chunk := list(islice(given, BATCH)):
            batches, geometries = [], []
            for each, prepare in zip(takes, self._prepares, strict=True):
                made = [each.apply(prepare, image) for _, image in chunk]
                batches.append(np.stack([array for array, _ in made]))
                geometries.append([geometry for _, geometry in made])
            self.add(batches, [name for name, _ in chunk], target, geometries)
            yield len(chunk)

    def laid_out(self, inputs: Inputs) -> list[Inputs]:
        """Return one batch as each of the other models takes it: channels where it wants them."""
        own, *layouts = [_layout(explainer.model) for explainer in self.explainers]
        return [_turned(inputs, own, layout) for layout in layouts]

    def _check(self, reference: Explanation, other: Explanation, place: int) -> None:
        own, name = self.names[0], self.names[place]
        classes = [class_scores(e.logits, e.output).shape[1] for e in (reference, other)]
        if classes[0] != classes[1]:
            raise TargetError(
                f"{own} has {classes[0]} classes, {name} {classes[1]}: compare models of the same "
                "classes"
            )
        if reference.cam.ndim != other.cam.ndim:
            raise LayerError(
                f"the maps of {own} have {reference.cam.ndim - 1} spatial axes, those of {name} "
                f"{other.cam.ndim - 1}: name layers of the same kind"
            )

    def result(self, limits: Limits, skipped: Sequence[str] = ()) -> Comparison:
        """Return what was found so far; raise InputError where nothing was compared."""
        if not self._found:
            raise InputError("no image was compared: give at least one that can be read")
        others = [
            replace(each, raw=all(pair.agreement.raw for pair in pairs))
            for each, pairs in zip(self._found[1:], self._pairs, strict=True)
        ]
        return Comparison(
            reference=self._found[0],
            others=tuple(others),
            pairs=tuple(pair for pairs in self._pairs for pair in pairs),
            method=self.explainers[0].method.name,
            limits=limits,
            skipped=tuple(skipped),
        )


def one_each(values: Sequence[T], count: int, what: str) -> list[T]:
    """Return one value a model from one for all or one a model; raise InputError for others."""
    if len(values) not in (1, count):
        raise InputError(
            f"{len(values)} of {what} were given for {count} models: give one for all, or one for "
            "each, the reference's first"
        )
    return list(values) * (count if len(values) == 1 else 1)


def _layout(model: Model) -> Layout | None:
    """Where a model wants channels; first where it cannot say before a run, as PyTorch."""
    return model.inputs[0].layout if model.inputs else "channels_first"


def _turned(inputs: Inputs, layout: Layout | None, wanted: Layout | None) -> Inputs:
    """One array of the reference's layout with its channels where another model wants them."""
    if isinstance(inputs, tuple | dict):
        return inputs
    array = np.asarray(inputs.detach().cpu() if hasattr(inputs, "detach") else inputs)
    if array.ndim < 3 or {layout, wanted} != {"channels_first", "channels_last"}:
        return array
    return np.moveaxis(array, *((1, -1) if wanted == "channels_last" else (-1, 1)))


def _pair(
    index: int, image: str, model: str, reference: Explanation, other: Explanation,
    where: tuple[Geometry | None, Geometry | None],
) -> Pair:  # fmt: skip
    both = (reference, other)
    tops = [int(np.argmax(np.nan_to_num(_logits(each), nan=-np.inf))) for each in both]
    finite = all(each.status[0] != "nonfinite" for each in both)
    cams = reference.cam[0], other.cam[0]
    return Pair(
        index=index,
        image=image,
        model=model,
        target=reference.classes[0],
        label=reference.name(0),
        top1=(tops[0], tops[1]),
        scores=(_finite(reference.scores[0]), _finite(other.scores[0])),
        probabilities=(_finite(reference.probabilities[0]), _finite(other.probabilities[0])),
        statuses=(reference.status[0], other.status[0]),
        agreement=agree(*cams, reference.size, _fields(reference.size, where), finite=finite),
        maps=Maps(cams, where),
    )


def _logits(explanation: Explanation) -> NDArray[np.float64]:
    logits: NDArray[np.float64] = class_scores(explanation.logits, explanation.output)[0]
    return logits


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _fields(
    size: tuple[int, ...], where: tuple[Geometry | None, Geometry | None]
) -> tuple[Field, Field]:
    """Where both maps lie, in pixels of the reference's input of the given size."""
    whole = Field((0.0,) * len(size), tuple(map(float, size)))
    boxes = [np.reshape(geometry.box, (2, 2)) for geometry in where if geometry is not None]
    if len(boxes) < 2:
        return whole, whole
    own, other = boxes
    low, high = (other - own[0]) * (np.array(size) / (own[1] - own[0]))
    return whole, Field(tuple(low.tolist()), tuple(high.tolist()))


def _name(model: Any) -> str:
    """A file's name, or an object's class."""
    return Path(model).name if isinstance(model, str | os.PathLike) else type(model).__name__


def _unique(names: Sequence[str]) -> list[str]:
    """Tell equal names apart by a number, from the second on."""
    return [
        f"{name} #{names[: place + 1].count(name)}" if name in names[:place] else name
        for place, name in enumerate(names)
    ]
