"""How a model takes pictures, and pictures made so."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.errors import InputError, PreprocessError
from gradcam_multi.geometry import Geometry
from gradcam_multi.preprocess import Preprocess
from gradcam_multi.spec import Array, Layout, Model


@dataclass(frozen=True)
class PictureInput:
    """The one input of a model that takes pictures.

    `size` is (H, W); None stands for what the model leaves free or cannot say before a run.
    """

    name: str
    size: tuple[int | None, int | None] = (None, None)
    layout: Layout | None = None
    channels: int | None = None

    @classmethod
    def of(cls, model: Model, name: str) -> "PictureInput":
        """Return that of a model, `name` being what messages call it.

        Raises InputError where it takes something else than one batch of pictures.
        """
        if not model.inputs:
            return cls(name)
        spec, *more = model.inputs
        if more or len(spec.shape) != 4:
            shapes = ", ".join(f"{each.name} {each.shape}" for each in model.inputs)
            raise InputError(
                f"pictures go into a model with one input (N, C, H, W) or (N, H, W, C); {name} "
                f"takes {shapes}: give arrays, from Python"
            )
        last = spec.layout == "channels_last"
        size = spec.shape[1:3] if last else spec.shape[2:4]
        return cls(name, (size[0], size[1]), spec.layout, spec.shape[-1 if last else 1])

    def apply(self, prepare: Preprocess, image: NDArray[np.uint8]) -> tuple[Array, Geometry]:
        """Preprocess one picture, (H, W, 3) uint8 RGB, as `Preprocess.apply` does.

        Raises PreprocessError where that does not fit the model.
        """
        if self.channels not in (None, len(prepare.channels)):
            raise PreprocessError(
                f"the preprocessing gives {len(prepare.channels)} channels, {self.name} takes "
                f"{self.channels}: set 'channels' in a preprocessing file"
            )
        return prepare.apply(image, size=self.size, layout=self.layout)
