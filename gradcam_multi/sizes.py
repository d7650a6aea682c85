"""The inputs of a model by their shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradcam_multi.spec import Array, Inputs, TensorSpec


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
