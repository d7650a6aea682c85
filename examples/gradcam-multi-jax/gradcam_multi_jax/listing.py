"""Steps as layers: names, roles, channel axes, edges."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax

from gradcam_multi.spec import Layer, Role
from gradcam_multi_jax.program import Program, Step

ROLES: dict[str, Role] = {
    "conv_general_dilated": "conv",
    "copy": "identity",
    "convert_element_type": "identity",
    "optimization_barrier": "identity",
    "pad": "pool",
    "stop_gradient": "identity",
}
"""What the choice of the default layer has to know of a primitive; windows are pooling."""


@dataclass(frozen=True)
class Listing:
    """The layers in execution order, their values, other names for them, the inputs' channels."""

    layers: tuple[Layer, ...]
    values: dict[str, int]
    aliases: dict[str, str]
    axes: dict[int, int]

    def find(self, name: str) -> str | None:
        """Return the layer of this name or alias."""
        name = self.aliases.get(name, name)
        return name if name in self.values else None


def list_layers(program: Program, batch: int) -> Listing:
    """List every floating-point result that depends on an input."""
    axes = _channel_axes(program)
    shown = [
        (step, made)
        for step in program.steps
        for made in step.makes[:1]
        if made in program.dependent and _floating(program, made)
    ]
    names, aliases = _names([step for step, _ in shown])
    known = {made: name for (_, made), name in zip(shown, names, strict=True)}
    # What is made on the way of integers, as for indices, has no layer: edges lead through it.
    behind: dict[int, tuple[str, ...]] = {}
    returned = {value: name for name, value in reversed(program.outputs.items())}
    layers = []
    for step in program.steps:
        before = tuple(dict.fromkeys(n for s in step.sources for n in behind.get(s, ())))
        for made in step.makes:
            behind[made] = (known[made],) if made in known else before
        if not step.makes or (made := step.makes[0]) not in known:
            continue
        shape = tuple(program.avals[made].shape)
        free = (None, *shape[1:]) if shape and shape[0] == batch else shape
        role = _role(program, step)
        output = returned.get(made)
        layers.append(Layer(known[made], step.kind, role, free, axes.get(made), before, output))
    values = {name: made for made, name in known.items()}
    return Listing(tuple(layers), values, aliases, axes)


def _names(steps: Sequence[Step]) -> tuple[list[str], dict[str, str]]:
    """Name the last step of a scope by the scope, others by their kind and number within it."""
    last: dict[str, int] = {}
    for place, step in enumerate(steps):
        parts = step.scope.split("/") if step.scope else []
        for depth in range(1, len(parts) + 1):
            last["/".join(parts[:depth])] = place
    names, counts = [], Counter[str]()
    for place, step in enumerate(steps):
        label = f"{step.scope}/{step.kind}" if step.scope else step.kind
        counts[label] += 1
        ends = step.scope and last[step.scope] == place
        names.append(step.scope if ends else f"{label}_{counts[label] - 1}")
    aliases = {scope: names[place] for scope, place in last.items() if names[place] != scope}
    return names, aliases


def _floating(program: Program, value: int) -> bool:
    aval = program.avals[value]
    return bool(jax.numpy.issubdtype(aval.dtype, jax.numpy.floating))


def _role(program: Program, step: Step) -> Role:
    if step.kind == "dot_general":
        varying = [value for value in step.sources if value in program.dependent]
        return "attention" if len(varying) > 1 else "linear"
    if step.kind.startswith("reduce_window"):
        return "pool"
    if step.kind in ROLES:
        return ROLES[step.kind]
    inside = set(_primitives(step.equation.params))
    if "conv_general_dilated" in inside:
        return "conv"
    return "linear" if "dot_general" in inside else "other"


def _primitives(params: Any) -> Any:
    """Yield the primitives of all programs within an operation's parameters."""
    entries = params.values() if isinstance(params, dict) else params
    for entry in entries:
        if isinstance(entry, tuple | list):
            yield from _primitives(entry)
        inner = getattr(entry, "jaxpr", entry)
        for equation in getattr(inner, "eqns", ()):
            yield equation.primitive.name
            yield from _primitives(equation.params)


def _channel_axes(program: Program) -> dict[int, int]:
    """Return the channel axis of each value that has a batch, channels and a grid."""
    axes: dict[int, int] = {}
    for step in program.steps:
        if step.kind == "conv_general_dilated" and step.reads[0] in program.inputs:
            numbers = step.equation.params["dimension_numbers"]
            axes.setdefault(step.reads[0], numbers.lhs_spec[1])
    for step in program.steps:
        for made in step.makes:
            if len(program.avals[made].shape) >= 3 and made in program.dependent:
                axis = _axis(program, step, tuple(program.avals[made].shape), axes)
                if axis is not None:
                    axes[made] = axis
    return axes


def _axis(program: Program, step: Step, shape: tuple[int, ...], axes: dict[int, int]) -> int | None:
    params = step.equation.params
    if step.kind == "conv_general_dilated":
        return int(params["dimension_numbers"].out_spec[1])
    if step.kind == "dot_general":
        return _mixed(program, step, shape)
    source = next((value for value in step.sources if value in axes), None)
    if source is None:
        return None
    axis, before = axes[source], tuple(program.avals[source].shape)
    if step.kind == "transpose":
        return list(params["permutation"]).index(axis)
    if step.kind == "reshape":
        # A reshape keeps an axis where its extent and the number of cells before it are kept.
        cells, extent = prod(before[:axis]), before[axis]
        kept = (n for n in range(1, len(shape)) if shape[n] == extent and prod(shape[:n]) == cells)
        return next(kept, None)
    if step.kind == "broadcast_in_dim":
        return int(params["broadcast_dimensions"][axis])
    gone = params.get("axes", params.get("dimensions", ())) if len(before) > len(shape) else ()
    if axis in gone or len(before) - len(gone) != len(shape):
        return None
    return int(axis - sum(n < axis for n in gone))


def _mixed(program: Program, step: Step, shape: tuple[int, ...]) -> int | None:
    """Where the free axis of the weights lands: batch axes come first, then left, then right."""
    (contracted, batched) = step.equation.params["dimension_numbers"]
    varying = [read in program.dependent for read in step.reads]
    if all(varying):
        return None
    weights = varying.index(False)
    rank = len(step.equation.invars[weights].aval.shape)
    free = rank - len(contracted[weights]) - len(batched[weights])
    if free != 1:
        return None
    return len(shape) - 1 if weights == 1 else len(batched[0])
