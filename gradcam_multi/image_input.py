"""The input that a map lies over, among a model's inputs: read, changed and repeated."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradcam_multi.errors import InputError
from gradcam_multi.sizes import spatial_sizes
from gradcam_multi.spec import Array, Inputs, TensorSpec


class ImageInput:
    """The first of some inputs that has as many spatial axes as a map.

    `rank` is that number. Raises InputError, once it is asked for, where no input has it.
    """

    def __init__(self, inputs: Inputs, specs: Sequence[TensorSpec], rank: int) -> None:
        self._inputs, self._specs, self._rank = inputs, specs, rank

    @cached_property
    def _place(self) -> tuple[Any, bool, str]:
        """Its key or position, whether its channels are last, and its name."""
        sizes = spatial_sizes(self._inputs, self._specs)
        names = isinstance(self._inputs, Mapping)
        keys: list[Any] = list(self._inputs) if names else list(range(len(sizes)))
        fitting = [key for key, size in zip(keys, sizes, strict=True) if len(size) == self._rank]
        if not fitting:
            raise InputError(
                f"the input is to be changed, and none of the {len(sizes)} has the map's "
                f"{self._rank} spatial axes: take a method that needs no inputs, and no smoothing"
            )
        spec = _spec(self._specs, fitting[0])
        last = spec is not None and spec.layout == "channels_last"
        return fitting[0], last, spec.name if spec else "input"

    @property
    def name(self) -> str:
        """What the model calls it."""
        return self._place[2]

    def check_resizable(self) -> None:
        """Raise InputError where the model takes images of one size only."""
        key, last, name = self._place
        spec = _spec(self._specs, key)
        size = () if spec is None else spec.shape[1:-1] if last else spec.shape[2:]
        if any(extent is not None for extent in size):
            raise InputError(
                f"smooth='scales' was asked for, and input {name!r} has the fixed size "
                f"{'x'.join('?' if n is None else str(n) for n in size)}: take smooth='flip' or "
                "'noise', or a model that takes any size"
            )

    @property
    def _given(self) -> Any:
        key = self._place[0]
        return self._inputs[key] if isinstance(self._inputs, Mapping | tuple) else self._inputs

    @cached_property
    def array(self) -> Array:
        """Its content, (N, channels, *size) float32."""
        return self.channels_first(as_array(self._given)).astype(np.float32)

    def channels_first(self, array: NDArray[Any]) -> NDArray[Any]:
        """Lay out an array of the input's own layout as (N, channels, *size)."""
        # A copy: to compare or add up the few channels of a view takes ten times as long.
        return np.ascontiguousarray(np.moveaxis(array, -1, 1)) if self._place[1] else array

    def like_item(self, values: ArrayLike) -> Array:
        """Lay out values that broadcast to one item of the input as (channels, *size).

        Raises InputError where they do not.
        """
        given, item = np.asarray(values, np.float32), self.array.shape[1:]
        last = self._place[1]
        own = (*item[1:], item[0]) if last else item
        try:
            laid = np.broadcast_to(given, own)
        except ValueError:
            raise InputError(
                f"a baseline of the shape {given.shape} was given, and an item of the input "
                f"{self.name!r} has {own}: give a number, or an array that broadcasts to that"
            ) from None
        return np.moveaxis(laid, -1, 0) if last else laid

    def check_floating(self) -> None:
        """Raise InputError where it holds integers, which have no gradient."""
        dtype = str(getattr(self._given, "dtype", None) or as_array(self._given).dtype)
        if "int" in dtype or "bool" in dtype:
            raise InputError(
                f"the gradient of the input {self.name!r} was asked for, and it was given as "
                f"{dtype}, which has none: give floating-point numbers if the model takes them, or "
                "choose a method that looks at a layer"
            )

    def replaced(self, image: Array, copies: int = 1) -> Inputs:
        """Return the inputs with another image, (copies * N, channels, *size), in its dtype.

        Integers are rounded and kept in their range. The other inputs are repeated.
        """
        key, last, _ = self._place

        def entry(name: Any, array: Any) -> Any:
            if name != key:
                return _repeated(array, copies)
            dtype = as_array(array).dtype
            placed = np.moveaxis(image, 1, -1) if last else image
            if dtype.kind in "iu":
                bounds = np.iinfo(dtype)
                placed = np.clip(np.rint(placed), bounds.min, bounds.max)
            return np.ascontiguousarray(placed, dtype)

        return _mapped(self._inputs, entry)

    def repeated(self, copies: int) -> Inputs:
        """Return all inputs so many times along the batch axis."""
        return _mapped(self._inputs, lambda _, array: _repeated(array, copies))


def _mapped(inputs: Inputs, entry: Any) -> Inputs:
    if isinstance(inputs, Mapping):
        return {name: entry(name, array) for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(entry(place, array) for place, array in enumerate(inputs))
    return entry(0, inputs)


def _repeated(array: Any, copies: int) -> Any:
    return array if copies == 1 else np.concatenate([as_array(array)] * copies)


def _spec(specs: Sequence[TensorSpec], key: Any) -> TensorSpec | None:
    named = next((spec for spec in specs if spec.name == key), None)
    if named is None and isinstance(key, str):  # an entry of one argument that is a mapping
        named = next((spec for spec in specs if spec.name.rpartition(".")[2] == key), None)
    return named or (specs[key] if isinstance(key, int) and key < len(specs) else None)


def as_array(array: Any) -> NDArray[Any]:
    """Return an input as NumPy sees it; raise InputError where it is on another device."""
    try:
        return np.asarray(array)
    except (TypeError, RuntimeError) as error:
        raise InputError(
            "the model is to be run on changed inputs, and these cannot be read by NumPy "
            f"({' '.join(str(error).split())[:80]}): give NumPy arrays"
        ) from error
