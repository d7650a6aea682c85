"""What the caller gives, checked against what the model takes, and cut into batches it can run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import InputError, suggest
from gradcam_multi.spec import Inputs, TensorSpec

AnyArray = NDArray[Any]
Feeds = dict[str, AnyArray]


def make_feeds(specs: Sequence[TensorSpec], inputs: Inputs) -> Feeds:
    """Return arrays by input name, in the types that the model takes.

    Raises InputError where names, ranks, extents or types do not fit.
    """
    given = _by_name(specs, inputs)
    feeds = {spec.name: _checked(spec, given[spec.name]) for spec in specs}
    counts = {name: len(array) for name, array in feeds.items() if array.ndim}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in counts.items())
        raise InputError(f"the inputs hold unequal numbers of items ({listed}); give as many each")
    return feeds


def _by_name(specs: Sequence[TensorSpec], inputs: Inputs) -> Mapping[str, Any]:
    names = [spec.name for spec in specs]
    takes = f"the model takes {len(names)}: {', '.join(names)}"
    if isinstance(inputs, Mapping):
        for name in inputs:
            if name not in names:
                raise InputError(f"no input is called {name!r}; {takes}{suggest(str(name), names)}")
        missing = [name for name in names if name not in inputs]
        if missing:
            raise InputError(f"the input {missing[0]!r} is missing; {takes}")
        return inputs
    several = isinstance(inputs, tuple) or (isinstance(inputs, list) and len(names) > 1)
    listed = list(inputs) if several else [inputs]
    if len(listed) != len(names):
        raise InputError(f"{len(listed)} inputs were given; {takes}")
    return dict(zip(names, listed, strict=True))


def _as_array(value: Any) -> AnyArray:
    if hasattr(value, "detach"):  # a torch tensor, perhaps on another device or with a graph
        value = value.detach().cpu()
    return np.asarray(value)


def _shape(extents: Sequence[int | None]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in extents) + ")"


def _checked(spec: TensorSpec, value: Any) -> AnyArray:
    wanted = f"input {spec.name!r} takes {spec.dtype} {_shape(spec.shape)}"
    try:
        array = _as_array(value)
    except Exception as error:
        raise InputError(f"{wanted}; a {type(value).__name__} is no array") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{wanted}, got an array of {array.dtype}; give numbers")
    found = f"{wanted}, got {_shape(array.shape)}"
    if array.ndim != len(spec.shape):
        hint = "; add the batch axis" if array.ndim == len(spec.shape) - 1 else ""
        raise InputError(f"{found}{hint or '; give one axis each'}")
    for axis, (expected, n) in enumerate(zip(spec.shape, array.shape, strict=True)):
        if axis and expected is not None and n != expected:
            raise InputError(f"{found}; axis {axis} must be {expected}")
    if array.ndim and not len(array):
        raise InputError(f"{found}; give at least one item")
    dtype = np.dtype(spec.dtype)
    if array.dtype.kind == "f" and dtype.kind != "f":
        raise InputError(f"{wanted}, got {array.dtype}; give whole numbers of that type")
    return np.asarray(array, dtype=dtype, order="C")


def batches(specs: Sequence[TensorSpec], feeds: Feeds) -> Iterator[tuple[Feeds, int]]:
    """Cut items into batches of the size that the model is fixed to, if it is.

    Yields feeds and how many of their items count; the last batch is filled by repetition.
    """
    sizes = {spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None}
    total = next((len(feeds[spec.name]) for spec in specs if spec.shape), 1)
    if len(sizes) != 1 or sizes == {total}:
        yield feeds, total
        return
    (size,) = sizes
    assert size is not None
    for start in range(0, total, size):
        real = min(size, total - start)
        index = np.minimum(np.arange(start, start + size), total - 1)
        yield {n: array[index] if array.ndim else array for n, array in feeds.items()}, real
