"""The inputs of a model as a batch: how many items, of what size, which of them finite."""

import os
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import InputError
from gradcam_multi.finite import finite_rows
from gradcam_multi.spec import Array, Inputs, Model, TensorSpec

# Items at once where the user names no batch size, so that memory stays flat: 4 pictures of
# 224x224, or as many values in smaller ones; 8 times as many on an accelerator, which few leave
# idle. With 32 of that size networks took up to three times as long on a CPU: their tensors leave
# its cache, and are too large for the allocator to keep.
MOST_VALUES, MOST_ITEMS, MORE = 4 * 3 * 224 * 224, 32, 8


def arrays_of(inputs: Inputs) -> list[Any]:
    """Return the arrays among inputs, in order."""
    if isinstance(inputs, Mapping):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def sizes_key(inputs: Inputs) -> tuple[Any, ...]:
    """Return what the listing of a model may depend on: all extents but the batch's."""
    # The grid, and so the choice, may depend on the input's size, but not on the batch's.
    return tuple(np.shape(array)[1:] for array in arrays_of(inputs))


def spatial_sizes(inputs: Inputs, specs: Sequence[TensorSpec]) -> list[tuple[int | None, ...]]:
    """Spatial size of each input, () for one without; of the specs where there are no inputs."""
    by_name = {spec.name: spec for spec in specs}
    named = inputs.items() if isinstance(inputs, Mapping) else ()
    shapes = [(np.shape(array), by_name.get(name)) for name, array in named]
    if inputs is None:
        shapes = [(spec.shape, spec) for spec in specs]
    elif not shapes:
        padded = [*specs, *[None] * len(arrays_of(inputs))]
        shapes = list(zip(map(np.shape, arrays_of(inputs)), padded, strict=False))
    return [
        tuple(shape[1:-1] if spec is not None and spec.layout == "channels_last" else shape[2:])
        for shape, spec in shapes
    ]


def image_sizes(inputs: Inputs, specs: Sequence[TensorSpec]) -> list[tuple[int | None, ...]]:
    """Spatial sizes of the inputs that have two or three spatial axes."""
    return [size for size in spatial_sizes(inputs, specs) if len(size) in (2, 3)]


def spatial_size(inputs: Inputs, specs: Sequence[TensorSpec], cam: Array) -> tuple[int, ...]:
    """Spatial size of the first input whose rank fits the map; the map's own where none does."""
    fitting = [s for s in spatial_sizes(inputs, specs) if len(s) == cam.ndim - 2]
    return tuple(int(n or 0) for n in fitting[0]) if fitting else cam.shape[2:]


def batch_count(inputs: Inputs) -> int:
    """Return the number of items; raise InputError where inputs are empty or disagree."""
    for array in arrays_of(inputs):
        if isinstance(array, str | os.PathLike):
            raise InputError(
                f"inputs are arrays, and {str(array)!r} is a path: read it with load_image, and "
                "give what Preprocess makes of it"
            )
    shapes = [tuple(np.shape(array)) for array in arrays_of(inputs)]
    counts = {shape[0] for shape in shapes if shape}
    if len(counts) != 1 or 0 in counts:
        raise InputError(
            f"inputs of the shapes {', '.join(map(str, shapes)) or 'none'} were given: the first "
            "axis is the batch, at least one item, the same for all inputs"
        )
    return int(counts.pop())


def items_at_once(inputs: Inputs, model: Model | None = None) -> int:
    """Return how many items of such inputs are run at once where the user names no batch size."""
    largest = max(int(prod(np.shape(array)[1:])) for array in arrays_of(inputs))
    most = MOST_VALUES * (MORE if getattr(model, "accelerated", False) else 1)
    return min(MOST_ITEMS, max(1, most // max(1, largest)))


def finite_items(inputs: Inputs) -> NDArray[np.bool_]:
    """(N,) whether each item's inputs are free of NaN and infinity, as far as NumPy can see."""
    finite = np.ones(batch_count(inputs), np.bool_)
    for array in arrays_of(inputs):
        try:
            values = np.asarray(array)
        except (TypeError, RuntimeError):
            continue  # on another device, or part of a graph: the activations will tell
        if values.dtype.kind == "f":
            finite &= finite_rows(values)
    return finite


def part_of(inputs: Inputs, items: slice) -> Inputs:
    """Return some of the items of a batch."""
    if isinstance(inputs, Mapping):
        return {name: array[items] for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(array[items] for array in inputs)
    return inputs[items]
