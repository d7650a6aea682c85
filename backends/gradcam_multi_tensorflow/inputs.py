"""From what a caller gives to the tensors that a model takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from gradcam_multi.errors import InputError, suggest
from gradcam_multi.spec import Inputs

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Slot:
    """One tensor that a model takes; `shape` has None where an extent is free."""

    name: str
    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Form:
    """How a model takes its inputs: a structure of their names, and how it is handed over."""

    structure: Any
    keyword: bool
    spread: bool

    def call(self, model: Any, tensors: Mapping[str, Any]) -> Any:
        """Call a model on tensors by input name, as for inference."""
        structure = keras.tree.map_structure(lambda name: tensors[name], self.structure)
        if self.keyword:
            return model(**structure, training=False)
        if self.spread:
            return model(*structure, training=False)
        return model(structure, training=False)


@dataclass(frozen=True)
class Bound:
    """Tensors by input name, and the structure in which the model takes them.

    `keyword` says that the structure is a dict of keyword arguments, `spread` that it is a tuple
    of positional ones.
    """

    tensors: dict[str, Any]
    structure: Any
    keyword: bool = False
    spread: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What a trace depends on: names, dtypes and shapes, but not the batch size."""
        return tuple((name, dtype_of(t), tuple(t.shape[1:])) for name, t in self.tensors.items())

    @property
    def form(self) -> Form:
        """The structure alone, which holds no tensor."""
        names = {id(tensor): name for name, tensor in self.tensors.items()}
        structure = keras.tree.map_structure(lambda t: names[id(t)], self.structure)
        return Form(structure, self.keyword, self.spread)

    def items(self, count: int) -> Bound:
        """The first items, or the first one repeated where there are fewer."""
        parts = {
            id(t): t[:count] if t.shape[0] >= count else keras.ops.repeat(t[:1], count, axis=0)
            for t in self.tensors.values()
        }
        return Bound(
            {name: parts[id(t)] for name, t in self.tensors.items()},
            keras.tree.map_structure(lambda t: parts[id(t)], self.structure),
            self.keyword,
            self.spread,
        )

    @property
    def batch(self) -> int:
        """The batch size."""
        return int(next(iter(self.tensors.values())).shape[0])


def declared(model: Any) -> tuple[tuple[Slot, ...], Any] | None:
    """Return what a functional or built sequential model takes, and in which structure."""
    try:
        tensors = list(model.inputs)
    except (AttributeError, TypeError, ValueError):
        return None
    if not tensors or not all(isinstance(tensor, keras.KerasTensor) for tensor in tensors):
        return None
    structure = getattr(model, "_inputs_struct", tensors[0] if len(tensors) == 1 else tensors)
    named = list(structure) if isinstance(structure, dict) else []
    order = {id(tensor): place for place, tensor in enumerate(tensors)}
    names = [tensor.name for tensor in tensors]
    if named and all(id(structure[key]) in order for key in named):
        for key in named:
            names[order[id(structure[key])]] = key
    slots = tuple(
        Slot(name, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        for name, tensor in zip(names, tensors, strict=True)
    )
    return slots, keras.tree.map_structure(lambda tensor: order[id(tensor)], structure)


def bind_declared(slots: tuple[Slot, ...], structure: Any, inputs: Inputs) -> Bound:
    """Fit inputs to declared slots. Raises InputError where they do not fit."""
    values = _by_name(slots, inputs)
    tensors = {slot.name: _fit(slot, value) for slot, value in values.items()}
    _check_batch(tensors)
    flat = list(tensors.values())
    return Bound(tensors, keras.tree.map_structure(lambda place: flat[place], structure))


def bind_free(model: Any, inputs: Inputs) -> Bound:
    """Bind inputs of a model that declares none, as they are. Raises InputError."""
    if isinstance(inputs, Mapping):
        tensors = {str(name): _free(str(name), value) for name, value in inputs.items()}
        bound = Bound(tensors, dict(tensors), keyword=_names_parameters(model, tensors))
    elif isinstance(inputs, tuple):
        tensors = {f"input_{n}": _free(f"input_{n}", value) for n, value in enumerate(inputs)}
        bound = Bound(
            tensors, tuple(tensors.values()), spread=_takes_positional(model, len(inputs))
        )
    else:
        tensor = _free("input", inputs)
        bound = Bound({"input": tensor}, tensor)
    _check_batch(bound.tensors)
    return bound


def describe(tensors: Mapping[str, Any]) -> str:
    """Write names and shapes for a message."""
    return ", ".join(f"{name!r} {tuple(tensor.shape)}" for name, tensor in tensors.items())


def _by_name(slots: tuple[Slot, ...], inputs: Inputs) -> dict[Slot, Any]:
    names = [slot.name for slot in slots]
    if isinstance(inputs, Mapping):
        unknown = [str(name) for name in inputs if name not in names]
        missing = [name for name in names if name not in inputs]
        if unknown or missing:
            hint = suggest(unknown[0], names) if unknown else ""
            raise InputError(
                f"inputs were given for {', '.join(map(repr, inputs)) or 'nothing'}; the model "
                f"takes {', '.join(map(repr, names))}{hint}"
            )
        return {slot: inputs[slot.name] for slot in slots}
    if len(slots) == 1 and not isinstance(inputs, tuple):
        return {slots[0]: inputs}
    if not isinstance(inputs, tuple | list) or len(inputs) != len(slots):
        given = f"{len(inputs)} inputs" if isinstance(inputs, tuple | list) else "one array"
        raise InputError(
            f"{given} were given; the model takes {len(slots)}: {', '.join(map(repr, names))}; "
            "give a tuple in this order or a dict by these names"
        )
    return dict(zip(slots, inputs, strict=True))


def _fit(slot: Slot, value: Any) -> Any:
    tensor = _tensor(slot.name, value)
    shape = tuple(tensor.shape)
    fits = len(shape) == len(slot.shape) and all(
        want is None or want == have for want, have in zip(slot.shape[1:], shape[1:], strict=True)
    )
    if not fits:
        raise InputError(
            f"input {slot.name!r} was given with shape {shape}; the model takes "
            f"{slot.shape}{_shape_hint(slot.shape, shape)}"
        )
    if dtype_of(tensor) == slot.dtype:
        return tensor
    try:
        return keras.ops.cast(tensor, slot.dtype)
    except Exception as error:  # each backend has its own
        raise InputError(
            f"input {slot.name!r} was given as {dtype_of(tensor)}; the model takes {slot.dtype}"
        ) from error


def dtype_of(tensor: Any) -> str:
    """Return the name of a tensor's dtype."""
    name: str = keras.backend.standardize_dtype(tensor.dtype)
    return name


def _shape_hint(want: Shape, have: tuple[int, ...]) -> str:
    def fits(shape: tuple[int, ...]) -> bool:
        pairs = zip(want[1:], shape[1:], strict=True)
        return all(a is None or a == b for a, b in pairs)

    if len(have) == len(want) - 1:
        return "; the first axis is the batch: give array[None] for one item"
    if len(have) == len(want) > 2:
        if fits((have[0], *have[2:], have[1])):
            return "; move the channels last: numpy.moveaxis(array, 1, -1)"
        if fits((have[0], have[-1], *have[1:-1])):
            return "; move the channels first: numpy.moveaxis(array, -1, 1)"
        return "; resize the input to this size"
    return "; the first axis is the batch"


def _free(name: str, value: Any) -> Any:
    tensor = _tensor(name, value)
    dtype = dtype_of(tensor)
    # A picture in integers is a picture; integers of lower rank are tokens or indices.
    whole = keras.backend.is_int_dtype(dtype)
    if keras.backend.is_float_dtype(dtype) or dtype == "uint8" or (whole and tensor.ndim >= 3):
        return keras.ops.cast(tensor, keras.backend.floatx())
    return tensor


def _tensor(name: str, value: Any) -> Any:
    if isinstance(value, keras.KerasTensor):
        raise InputError(f"input {name!r} is a symbolic keras tensor; give values")
    try:
        array = value if keras.ops.is_tensor(value) else np.asarray(value)
        if getattr(array, "dtype", None) is not None and array.dtype == object:
            raise TypeError("it holds objects")
        tensor = keras.ops.convert_to_tensor(array)
    except Exception as error:  # each backend has its own
        cause = " ".join(str(error).split())[:120]
        raise InputError(f"input {name!r} is no array of numbers ({cause})") from error
    if tensor.ndim == 0 or tensor.shape[0] == 0:
        raise InputError(
            f"input {name!r} was given with shape {tuple(tensor.shape)}; the first axis is the "
            "batch: give one item at least"
        )
    return tensor


def _check_batch(tensors: Mapping[str, Any]) -> None:
    if len({tensor.shape[0] for tensor in tensors.values()}) > 1:
        raise InputError(
            f"inputs were given with different batch sizes: {describe(tensors)}; give as many "
            "items of each"
        )


def _parameters(model: Any) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.call).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.name not in ("training", "mask")]


def _names_parameters(model: Any, names: Mapping[str, Any]) -> bool:
    return set(names) <= set(_parameters(model))


def _takes_positional(model: Any, count: int) -> bool:
    return len(_parameters(model)) >= count > 1
