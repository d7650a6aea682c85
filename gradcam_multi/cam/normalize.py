"""From activations and gradients to a map with a status, and from a map to [0, 1].

A map is never NaN and never silently blank: each item has a status that says what it is worth.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam.components import first_component
from gradcam_multi.cam.gradients import weighted_terms
from gradcam_multi.cam.method import Method
from gradcam_multi.cam.methods import GRADIENT_METHODS, METHODS
from gradcam_multi.cam.probe import Probe
from gradcam_multi.cam.scaling import is_flat
from gradcam_multi.errors import MethodError
from gradcam_multi.finite import finite_and_zero, finite_rows
from gradcam_multi.spec import Array

Status = Literal["ok", "all_negative", "zero_gradient", "constant", "nonfinite"]
STATUSES: tuple[Status, ...] = get_args(Status)


def raw_maps(
    activations: Array,
    gradients: Array | None,
    method: Method,
    *,
    guided: bool = False,
    component: bool = False,
    finite_inputs: NDArray[np.bool_] | None = None,
) -> tuple[Array, tuple[Status, ...]]:
    """Combine (N, C, *grid) activations and gradients into (N, *grid) maps, each with its status.

    Methods that read no gradients take None for them.

    `guided` keeps of the gradients only what is positive where the activation is positive, before
    the method sees them (Springenberg 2015, applied to the last layer only): sharper, but on some
    networks the same for every class. `component` takes, instead of the sum over channels of weight
    times activation, the first principal component over these channels, its sign that of the sum
    (pytorch-grad-cam's eigen_smooth): one pattern, and little noise. `finite_inputs` (N,) tells
    items apart whose input already held NaN or infinity: some frameworks' ReLU turns NaN into 0,
    and the map would look sound.

    Statuses: `ok`; `zero_gradient`, the score does not change with the layer at this point;
    `all_negative`, there is evidence against the target only, so that ReLU leaves nothing;
    `constant`, every cell is worth the same; `nonfinite`, inputs, activations or gradients hold NaN
    or infinity. The map of an item that is `all_negative`, `zero_gradient` or `nonfinite` is zero.

    Raises MethodError for a method that runs the model again, and where `component` is asked of one
    that weighs no channels.
    """
    _check_component(method, component)
    grid = activations.shape[2:]
    flat = (*activations.shape[:2], -1)
    a = activations.reshape(flat)
    g = None if gradients is None else gradients.reshape(flat)
    with np.errstate(all="ignore"):  # NaN and infinity are dealt with by status
        if method.combine is not None:
            if g is None:
                raise MethodError(f"method {method.name!r} needs gradients, and was given none")
            if guided:
                g = np.maximum(g, 0) * (a > 0)
            signed = _component(method, a, a, g) if component else method.combine(a, g)
        elif method.project is not None:
            signed = method.project(a)
        else:
            raise MethodError(
                f"method {method.name!r} runs the model again: use it through Explainer"
            )
    # The gradient of a method that does not use it is no reason to doubt its map.
    read = () if method.combine is None or g is None else (g,)
    return _with_status(signed, (a, *read), method, finite_inputs, grid)


def probed_maps(
    probe: Probe,
    method: Method,
    *,
    guided: bool = False,
    component: bool = False,
    finite_inputs: NDArray[np.bool_],
) -> tuple[Array, tuple[Status, ...]]:
    """Make the maps (N, *grid) of any method, each with its status; see `raw_maps`.

    `zero_gradient` then also says that the score did not change with what the method tried.
    Raises MethodError where `guided` is asked of a method that weighs no gradients by itself, or
    `component` of one that weighs no channels.
    """
    _check_component(method, component)
    if guided and method.combine is None:
        raise MethodError(
            f"guided was asked for with method {method.name!r}, which it has no meaning for: leave "
            f"it out, or take one of {', '.join(GRADIENT_METHODS)}"
        )
    if method.probe is None:
        gradients = probe.gradients() if method.combine is not None else None
        return raw_maps(
            probe.activations, gradients, method, guided=guided, component=component,
            finite_inputs=finite_inputs,
        )  # fmt: skip
    grid = probe.activations.shape[2:]
    a = probe.activations.reshape(*probe.activations.shape[:2], -1)
    with np.errstate(all="ignore"):
        if component:
            signed = _component(method, a, probe).reshape(-1, *grid)
        else:
            signed = method.probe(probe)
    flat = signed.reshape(len(signed), -1)
    return _with_status(flat, (a,), method, finite_inputs, signed.shape[1:])


def _check_component(method: Method, component: bool) -> None:
    if component and method.weigh is None:
        weighing = ", ".join(name for name, each in METHODS.items() if each.weigh)
        raise MethodError(
            "smooth='pca' was asked for, the component of weighted channels, with method "
            f"{method.name!r}, which weighs none: leave it out, or take one of {weighing}"
        )


def _component(method: Method, activations: Array, *given: Any) -> Array:
    """The first component of the weighted channels (N, C, P), (N, P)."""
    assert method.weigh is not None
    return first_component(weighted_terms(method.weigh(*given), activations))


def _with_status(
    signed: Array,
    tensors: Sequence[Array],
    method: Method,
    finite_inputs: NDArray[np.bool_] | None,
    grid: tuple[int, ...],
) -> tuple[Array, tuple[Status, ...]]:
    """Cut (N, P) signed maps where the method does, and say what each is worth.

    `tensors` are the activations and, where the method reads them, the gradients.
    """
    with np.errstate(all="ignore"):
        signed = signed.astype(np.float32, copy=False)
    low, high = signed.min(-1), signed.max(-1)
    status = np.full(len(signed), "ok", object)
    status[is_flat(low, high)] = "constant"
    if method.relu:
        status[(high <= 0) & (low < 0)] = "all_negative"
    finite, zero = finite_and_zero(tensors[-1])
    for tensor in tensors[:-1]:  # a method may step over a NaN, as where a channel has no weight
        finite &= finite_rows(tensor)
    if len(tensors) == 1:  # nothing that was tried changed the score, though there was what to try
        varied = (tensors[0].max(-1) > tensors[0].min(-1)).any(-1)
        zero = ~signed.any(-1) & varied & bool(method.needs)
    status[zero] = "zero_gradient"
    finite &= np.isfinite(low) & np.isfinite(high)
    if finite_inputs is not None:
        finite &= finite_inputs
    status[~finite] = "nonfinite"
    out = np.maximum(signed, 0) if method.relu else signed
    out[zero | ~finite] = 0
    return out.reshape(len(out), *grid), tuple(status)
