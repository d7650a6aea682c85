"""Which layer an explainer explains, looked up once for inputs of a shape."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from gradcam_multi.choice import Choice, choose, outputs_of
from gradcam_multi.errors import TargetError
from gradcam_multi.layers import Ends, path_of
from gradcam_multi.sizes import sizes_key
from gradcam_multi.spec import Inputs, Layer, Model
from gradcam_multi.targets import chosen_output

Names: TypeAlias = tuple[str, ...]


class Choices:
    """The layers that explanations of a model are at: `layer` where it is named, or the default.

    `output` is the one explained, where its name was given.
    """

    def __init__(self, model: Model, layer: str | Sequence[str] | None, output: str | None) -> None:
        self._model, self._layer, self._output = model, layer, output
        self._found: dict[tuple[Any, Names], Choice] = {}

    def __call__(self, inputs: Inputs, read: Sequence[Names] = ()) -> Choice:
        """Return the choice for a batch.

        `read` are the outputs that each row of targets names; where all name some, it is the
        default layer of these. Raises LayerError or TargetError.
        """
        key = _key(inputs, read)
        if key not in self._found:
            listed = self._model.layers(inputs)
            named = None if self._layer is None else path_of(self._layer, listed)
            self._found[key] = choose(listed, named, self._ends(listed, key[1]))
        return self._found[key]

    def keep(self, choice: Choice, inputs: Inputs, read: Sequence[Names]) -> None:
        """Choose otherwise from now on: the run has told more than the listing."""
        self._found[_key(inputs, read)] = choice

    def _ends(self, listed: Sequence[Layer], read: Names) -> Ends:
        """The outputs explained, as far as the listing tells; None where the run has to."""
        names = outputs_of(self._model, listed)
        # With a layer that is named, the run will tell whether the output exists.
        told = self._layer is None or (names and self._output in (None, *names))
        if not told:
            return self._output
        if read:
            return tuple(chosen_output(name, names) for name in read)
        try:
            return chosen_output(self._output, names)
        except TargetError:
            if self._output is None and (None in names.values() or not names):
                return None
            raise


def _key(inputs: Inputs, read: Sequence[Names]) -> tuple[Any, Names]:
    """What the choice of the layer depends on."""
    every = tuple(dict.fromkeys(name for names in read for name in names))
    return sizes_key(inputs), every if all(read) else ()
