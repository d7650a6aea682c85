"""Which layer an explainer explains, looked up once for inputs of a shape."""

from collections.abc import Hashable, Sequence
from typing import TypeAlias

from gradcam_multi.choice import Choice, choose, outputs_of
from gradcam_multi.errors import TargetError
from gradcam_multi.layers import Ends, path_of
from gradcam_multi.sizes import sizes_key
from gradcam_multi.spec import Inputs, Layer, Model
from gradcam_multi.targets import chosen_output

Named: TypeAlias = str | Sequence[str] | None
Names: TypeAlias = tuple[str, ...]


class Choices:
    """The layers of a model that explanations are at, for each that was asked for."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._found: dict[Hashable, Choice] = {}

    def of(self, inputs: Inputs, layer: Named, output: str | None, read: Sequence[Names]) -> Choice:
        """Return the layer that is named, or the default one, of an output or the only one.

        `read` are the outputs that each row of targets names; where all name some, it is the
        default layer of these. Raises LayerError or TargetError.
        """
        key = _key(inputs, layer, output, read)
        if key not in self._found:
            listed = self._model.layers(inputs)
            named = None if layer is None else path_of(layer, listed)
            ends = self._ends(listed, output, _every(read), named is None)
            self._found[key] = choose(listed, named, ends)
        return self._found[key]

    def keep(
        self, choice: Choice, inputs: Inputs, layer: Named, output: str | None,
        read: Sequence[Names],
    ) -> None:  # fmt: skip
        """Choose this one from now on: the run has told more than the listing."""
        self._found[_key(inputs, layer, output, read)] = choice

    def _ends(
        self, listed: Sequence[Layer], output: str | None, read: Names, default: bool
    ) -> Ends:
        """The outputs explained, as far as the listing tells; None where the run has to."""
        names = outputs_of(self._model, listed)
        # With a layer that is named, the run will tell whether the output exists.
        told = default or (names and output in (None, *names))
        if not told:
            return output
        if read:
            return tuple(chosen_output(name, names) for name in read)
        try:
            return chosen_output(output, names)
        except TargetError:
            if output is None and (None in names.values() or not names):
                return None
            raise


def _key(inputs: Inputs, layer: Named, output: str | None, read: Sequence[Names]) -> Hashable:
    """What the choice of the layer depends on."""
    named = layer if layer is None or isinstance(layer, str) else tuple(layer)
    return sizes_key(inputs), named, output, _every(read)


def _every(read: Sequence[Names]) -> Names:
    """The outputs that targets name, where every row of them names some."""
    return tuple(dict.fromkeys(name for names in read for name in names)) if all(read) else ()
