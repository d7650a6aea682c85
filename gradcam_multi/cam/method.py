"""What a CAM method is: a value that the table of methods holds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam.gradients import weighted
from gradcam_multi.cam.probe import Probe
from gradcam_multi.spec import Array, ReluRule

Need = Literal["gradients", "replays", "inputs", "biases", "attention"]
Combine = Callable[[Array, Array], Array]
Project = Callable[[Array], Array]
ProbeMap = Callable[[Probe], Array]
Weigh = Callable[..., NDArray[np.floating]]


@dataclass(frozen=True)
class Method:
    """A CAM method: its name, its formula in words, the map it makes, and where it is defined.

    Exactly one of three functions makes the signed map: `combine` of (N, C, P) activations and
    gradients, `project` of activations alone, each to (N, P), or `probe` of a `Probe`, to
    (N, *grid). Where the map is the sum of the channels, each times its weight, `weigh` gives the
    weights, (N, C) or (N, C, P), from what `combine` or `probe` takes. `relu` says whether negative
    evidence is cut from the map; without it the signed map stays. `needs` says what it takes beyond
    the activations: "gradients", "replays" from the layer on, changed "inputs", the "biases" of all
    layers, the "attention" of all blocks. `cost` is the number of forward passes an item, in words.
    `on_input` says that the map has the input's size, and is about no layer; `at_input` that it is
    made of the one gradient at the input, which passes ReLU by that rule: the first run then keeps
    the input instead of a layer, and no second is needed. `unit_free` says that
    the heatmap does not depend on the unit of the logits; a probability does. `only_for` says of
    which networks alone it is defined.
    """

    name: str
    formula: str
    combine: Combine | None
    paper: str
    relu: bool = True
    project: Project | None = None
    probe: ProbeMap | None = None
    needs: tuple[Need, ...] = ("gradients",)
    cost: str = "1"
    on_input: bool = False
    at_input: ReluRule | None = None
    unit_free: bool = True
    weigh: Weigh | None = None
    only_for: str = ""


def row(name: str, formula: str, paper: str, **kind: Any) -> Method:
    """Return a method as the table writes it, name and formula first."""
    return Method(name, formula, kind.pop("combine", None), paper, **kind)


def by_gradients(weigh: Weigh) -> dict[str, Any]:
    """Return what a row says of a method that weighs channels by activations and gradients."""

    def combine(activations: Array, gradients: Array) -> Array:
        return weighted(weigh(activations, gradients), activations)

    return {"weigh": weigh, "combine": combine}


def by_probing(weigh: Weigh) -> dict[str, Any]:
    """Return what a row says of a method that weighs channels by further runs of the model."""

    def probe(batch: Probe) -> Array:
        activations = batch.activations
        flat = activations.reshape(*activations.shape[:2], -1)
        return weighted(weigh(batch), flat).reshape(len(flat), *activations.shape[2:])

    return {"weigh": weigh, "probe": probe}
