"""The sanity checks of Adebayo 2018 (arXiv:1810.03292): does a map depend on what was learned?

A map that stays when weights are redrawn, or for a model that learned nothing, shows edges of the
picture, not what the model knows. Maps are compared by Spearman's rank correlation on the layer's
own grid: 1 is the same, 0 unrelated.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.agreement import average_ranks, correlation
from gradcam_multi.cam import method_named
from gradcam_multi.cam.evidence import LIMIT
from gradcam_multi.errors import InputError, TargetError, UnknownLayerError, suggest
from gradcam_multi.explainer import CamWarning, Explainer
from gradcam_multi.explanation import Explanation
from gradcam_multi.metrics.score import Vector, item_generators
from gradcam_multi.plugins import installed
from gradcam_multi.spec import Array, Inputs
from gradcam_multi.targets import class_scores

Randomise = Callable[[Any, Sequence[str]], Any]
"""Returns a copy of a model in which the named layers are redrawn; the model stays as it is."""


@dataclass(frozen=True, eq=False)
class Cascade:
    """How alike maps stay, (L, N), while L layers are redrawn one after another from the top.

    In step k `layers[: k + 1]` are redrawn.
    """

    layers: tuple[str, ...]
    similarity: Vector

    @property
    def mean(self) -> Vector:
        """(L,) the mean over the items of each step."""
        mean: Vector = self.similarity.mean(1)
        return mean

    def passed(self, limit: float = LIMIT) -> bool:
        """Whether the map is another one, in the mean, once all layers are redrawn."""
        return bool(self.mean[-1] <= limit)


def cascade(
    model: Any,
    inputs: Inputs,
    target: Any = None,
    *,
    layers: Sequence[str] | None = None,
    randomise: Randomise | None = None,
    seed: int = 0,
    trust: bool = False,
    **explainer: Any,
) -> Cascade:
    """Redraw a model's layers one after another from the top, and compare the maps each time.

    `layers` are names, the one nearest to the output first; left out, all that have weights.
    `randomise` redraws them; left out, `shuffled` does, for PyTorch modules and ONNX models. The
    rest is that of `Explainer`. The target is settled by the model as it is, and so is the layer.
    Raises UnsupportedError where the framework has no way to redraw, and no `randomise` is given.
    """
    own = Explainer(model, trust=trust, **explainer)
    first = _explained(own, inputs, target)
    names = tuple(weighted_layers(model, inputs, trust=trust) if layers is None else layers)
    if not names:
        raise InputError("no layer was named to be redrawn: give at least one")
    redraw = randomise or partial(shuffled, seed=seed, trust=trust)
    options = {**explainer, **_same_layer(first), "trust": trust}
    steps = []
    for count in range(1, len(names) + 1):
        changed = Explainer(redraw(model, names[:count]), **options)
        again = _explained(changed, inputs, list(first.targets))
        steps.append(similarity(first.cam, again.cam))
    return Cascade(names, np.stack(steps))


def random_logit(
    model: Any,
    inputs: Inputs,
    target: Any = None,
    *,
    seed: int = 0,
    first: int = 0,
    **explainer: Any,
) -> Vector:
    """Return (N,) how alike the maps of the target and of another class, drawn by lot, are.

    What a trained model allows of label randomisation: a map that is the same for any class does
    not explain the class. Lower is better. Raises TargetError for a model of one class. Sixt 2020,
    arXiv:1912.09818.
    """
    own = Explainer(model, **explainer)
    found = _explained(own, inputs, target)
    count = class_scores(found.logits, found.output).shape[1]
    if count < 2 or None in found.classes:
        raise TargetError(
            f"another class was asked for of {count}: give class targets, and a model of several"
        )
    generators = item_generators(seed, first, len(found))
    others = [
        (int(index) + int(rng.integers(1, count))) % count
        for index, rng in zip(found.classes, generators, strict=True)
        if index is not None
    ]
    return similarity(found.cam, _explained(own, inputs, others).cam)


def model_similarity(
    model: Any, other: Any, inputs: Inputs, target: Any = None, **explainer: Any
) -> Vector:
    """Return (N,) how alike the maps of two models of one architecture are.

    With the same network trained on shuffled labels as `other` this is the label randomisation of
    Adebayo 2018: lower is better. The target is settled by the first.
    """
    found = _explained(Explainer(model, **explainer), inputs, target)
    options = {**explainer, **_same_layer(found)}
    again = _explained(Explainer(other, **options), inputs, list(found.targets))
    return similarity(found.cam, again.cam)


def shuffled(model: Any, layers: Sequence[str], *, seed: int = 0, trust: bool = False) -> Any:
    """Return a copy of a model with the weights of the named layers in a random order.

    Every array of weights keeps its values and so its scale; where they stand is drawn by lot. A
    layer's draws depend on its name and the seed alone. Raises UnsupportedError for a model whose
    adapter cannot copy it, UnknownLayerError for a name that is no layer with weights.
    """
    seen: dict[str, int] = {}

    def change(layer: str, array: NDArray[Any]) -> NDArray[Any]:
        number = seen[layer] = seen.get(layer, -1) + 1
        if layer not in layers:
            return array
        rng = np.random.default_rng((seed, crc32(layer.encode()), number))
        return rng.permutation(array.ravel()).reshape(array.shape)

    copy = installed().reweigh(model, change, trust=trust)
    for name in layers:
        if name not in seen:
            raise UnknownLayerError(
                f"no layer with weights is called {name!r}{suggest(name, seen)}; "
                "weighted_layers names them"
            )
    return copy


def weighted_layers(model: Any, inputs: Inputs = None, *, trust: bool = False) -> tuple[str, ...]:
    """Name the layers that have weights, the one nearest to the output first.

    `inputs` are needed where only a run can tell the order (PyTorch); what did not run comes last.
    """
    names: dict[str, None] = {}

    def change(layer: str, array: NDArray[Any]) -> NDArray[Any]:
        names[layer] = None
        return array

    installed().reweigh(model, change, trust=trust)
    listed = {
        layer.name: place
        for place, layer in enumerate(Explainer(model, trust=trust).layers(inputs))
    }
    return tuple(sorted(names, key=lambda name: -listed.get(name, -1)))


def similarity(a: Array, b: Array) -> Vector:
    """Return (N,) Spearman's correlations of maps (N, *grid); 0 where one of two is flat."""
    pairs = zip(a.reshape(len(a), -1), b.reshape(len(b), -1), strict=True)
    return np.array([correlation(average_ranks(x), average_ranks(y)) for x, y in pairs])


def _same_layer(found: Explanation) -> dict[str, str]:
    """The layer as an option; none for a map over the input, which is no layer of a model."""
    return {} if method_named(found.method).on_input else {"layer": found.layer}


def _explained(explainer: Explainer, inputs: Inputs, target: Any) -> Explanation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)  # a flat map is a finding here
        return explainer(inputs, target)
