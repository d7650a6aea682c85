"""A model opened once and its maps measured, batch by batch, for every method asked for."""

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gradcam_multi.cam import ONE_PASS, Status, method_named, rescale
from gradcam_multi.errors import InputError
from gradcam_multi.explainer import CamWarning, Explainer
from gradcam_multi.explanation import Explanation
from gradcam_multi.metrics.evaluation import RANDOM, Evaluation, joined
from gradcam_multi.metrics.score import (
    ModelScore,
    Vector,
    as_taken,
    channels_first,
    fixed_batch,
    item_generators,
)
from gradcam_multi.metrics.table import Case, Options, metrics_named
from gradcam_multi.resize import interpolation_weights
from gradcam_multi.sizes import items_at_once
from gradcam_multi.spec import Array, Inputs
from gradcam_multi.targets import AnyTarget, as_targets

Tick = Callable[[], object]


class Evaluator:
    """A model, the methods that explain it and the metrics that judge them.

    `methods` are names in `METHODS`, `metrics` names in `metrics.METRICS`; left out, all methods
    that run the model once and the usual metrics, with those of masks where `masks` says that there
    will be some. `explainer` are options of `Explainer`. `random` adds the baseline, maps by lot.

    Raises MethodError and InputError for names that do not exist, and what `Explainer` raises.
    """

    def __init__(
        self,
        model: Any,
        *,
        methods: Iterable[str] | None = None,
        metrics: Iterable[str] | None = None,
        masks: bool = False,
        options: Options | None = None,
        random: bool = True,
        **explainer: Any,
    ) -> None:
        asked = list(dict.fromkeys(ONE_PASS if methods is None else methods))
        if not asked:
            raise InputError("no method was asked for: name at least one")
        for name in asked:
            method_named(name)  # what is asked wrongly is said before a model is opened
        self.metrics = metrics_named(metrics, masks)
        self.options = options or Options()
        first = Explainer(model, method=asked[0], **explainer)
        first.batch_size = first.batch_size or fixed_batch(first)
        self.explainers = {name: with_method(first, name) for name in asked}
        self.random = random
        self._values: list[dict[str, dict[str, Vector]]] = []
        self._statuses: dict[str, list[Status]] = {name: [] for name in asked}
        self._items: list[str] = []
        self._layer = ""

    @property
    def rows(self) -> int:
        """How many methods there are, the baseline included."""
        return len(self.explainers) + self.random

    def add(
        self,
        inputs: Inputs,
        names: Sequence[str] | None = None,
        *,
        masks: ArrayLike | None = None,
        target: Any = None,
        tick: Tick = lambda: None,
    ) -> None:
        """Measure a batch of N items, given as the model takes it.

        `masks` (N, *spatial) are true on the object. `target` is that of `Explainer`; the top class
        is settled once and explained by all methods. `tick` is called after each method.
        """
        first = len(self._items)
        one = next(iter(self.explainers.values()))
        changed = channels_first(one, inputs)
        found = _explained(one, inputs, target)
        targets = list(found.targets)
        options = self.options
        if options.chunk is None:
            options = replace(options, chunk=items_at_once(changed, one.model))
        score = ModelScore(one, targets, options.chunk)
        before = score(changed, np.arange(len(changed)))
        values: dict[str, dict[str, Vector]] = {}

        def measure(name: str, heatmaps: Array, explain: Callable[[Array], Array]) -> None:
            case = Case(
                changed,
                heatmaps,
                score,
                before,
                explain,
                None if masks is None else np.asarray(masks),
                first,
                options,
            )
            values[name] = {metric.name: metric.measure(case) for metric in self.metrics}
            tick()

        for name, explainer in self.explainers.items():
            own = found if explainer is one else _explained(explainer, inputs, targets)
            self._statuses[name] += own.status
            measure(name, own.heatmap, partial(_heatmaps, explainer, targets))
        if self.random:
            draw = RandomMaps(found.cam.shape[1:], found.size, self.options.seed, first)
            measure(RANDOM, draw(changed), draw)
        self._values.append(values)
        self._layer = self._layer or found.layer
        self._items += names if names is not None else map(str, range(first, first + len(changed)))

    def result(self, skipped: Sequence[str] = ()) -> Evaluation:
        """Return what was measured so far; raise InputError where nothing was."""
        if not self._values:
            raise InputError("nothing was evaluated: give at least one input that can be read")
        return Evaluation(
            values=joined(self._values),
            items=tuple(self._items),
            statuses={name: tuple(found) for name, found in self._statuses.items()},
            layer=self._layer,
            backend=next(iter(self.explainers.values())).model.backend,
            skipped=tuple(skipped),
        )


class RandomMaps:
    """Heatmaps drawn by lot: uniform on a grid, resized as a method's are; new ones at each call.

    `size` is the input's spatial size. An item's draws depend on its number alone. Around the grid
    lies a ring of cells more: a map that is clamped at its border has its largest pixel there much
    more often than by chance, where the centre of a cell lies between pixels.
    """

    def __init__(
        self, grid: tuple[int, ...], size: tuple[int, ...], seed: int = 0, first: int = 0
    ) -> None:
        self.grid, self.size, self.seed, self.first = grid, size, seed, first
        self._generators: list[np.random.Generator] = []

    def __call__(self, inputs: Array) -> Array:
        """Return (N, *size) float32 in [0, 1], one for each input."""
        if not self._generators:
            self._generators = item_generators(self.seed, self.first, len(inputs))
        wider = [cells + 2 for cells in self.grid]
        maps = np.stack([g.random(wider) for g in self._generators]).astype(np.float32)
        for axis, (cells, pixels) in enumerate(zip(self.grid, self.size, strict=True), start=1):
            places = (np.arange(pixels) + 0.5) * (cells / pixels) + 0.5  # one cell further in
            weights = interpolation_weights(places, cells + 2)
            maps = np.moveaxis(np.tensordot(maps, weights, (axis, 1)), -1, axis)
        return rescale(np.ascontiguousarray(maps))


def evaluate(
    model: Any,
    inputs: Inputs,
    target: Any = None,
    *,
    methods: Iterable[str] | None = None,
    metrics: Iterable[str] | None = None,
    masks: ArrayLike | None = None,
    options: Options | None = None,
    random: bool = True,
    batch_size: int = 8,
    **explainer: Any,
) -> Evaluation:
    """Measure how well each method explains a model on a batch of inputs.

    See `Evaluator` for the arguments, `Evaluator.add` for `inputs`, `target` and `masks`; the
    batch goes through in parts of `batch_size`.
    """
    evaluator = Evaluator(
        model,
        methods=methods,
        metrics=metrics,
        masks=masks is not None,
        options=options,
        random=random,
        **explainer,
    )
    one = next(iter(evaluator.explainers.values()))
    array = as_taken(one, channels_first(one, inputs))
    targets = as_targets(target, len(array))
    if masks is not None and len(np.asarray(masks)) != len(array):
        raise InputError(
            f"{len(np.asarray(masks))} masks were given for {len(array)} items: give one an item"
        )
    for start in range(0, len(array), batch_size):
        part = slice(start, start + batch_size)
        evaluator.add(
            array[part],
            masks=None if masks is None else np.asarray(masks)[part],
            target=targets[part],
        )
    return evaluator.result()


def with_method(explainer: Explainer, name: str) -> Explainer:
    """Return an explainer of the same opened model by another method."""
    other = copy.copy(explainer)
    other.method = method_named(name)
    return other


def _explained(explainer: Explainer, inputs: Inputs, target: Any) -> Explanation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)  # the evaluation's notes say it
        return explainer(inputs, target)


def _heatmaps(explainer: Explainer, targets: Sequence[AnyTarget], inputs: Array) -> Array:
    return _explained(explainer, as_taken(explainer, inputs), list(targets)).heatmap
