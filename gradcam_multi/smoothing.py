"""Maps averaged over changed inputs.

"pca" changes no input: there the method itself takes a component, see `cam.raw_maps`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from gradcam_multi.cam.perturbations import noisy_images
from gradcam_multi.errors import InputError, suggest
from gradcam_multi.explanation import Explanation
from gradcam_multi.fusion import fused
from gradcam_multi.image_input import ImageInput
from gradcam_multi.probing import Settings
from gradcam_multi.resize import resize
from gradcam_multi.spec import Array, Inputs

Smooth = Literal["flip", "noise", "scales", "pca"]
NOISY_COPIES = 8
SCALES = (0.75, 1.25)  # of each extent, besides the input as it is
Maps = Callable[[Inputs, Sequence[Any]], list[Explanation]]


def smoothing_named(name: str | None) -> Smooth | None:
    """Return the name of a smoothing; raise InputError for one that there is not."""
    for known in get_args(Smooth):
        if name == known:
            found: Smooth = known
            return found
    if name is None:
        return None
    raise InputError(
        f"smooth={name!r} was asked for; there are {', '.join(get_args(Smooth))}"
        f"{suggest(str(name), get_args(Smooth))}"
    )


def smoothed(
    plain: Explanation, maps: Maps, image: ImageInput, how: Smooth, settings: Settings
) -> Explanation:
    """Average an explanation's heatmap with those of changed inputs, each scaled to [0, 1] before.

    "flip" adds the input mirrored along its last axis, the heatmap mirrored back; "noise" adds
    copies with normal noise of 15 per cent of each item's range of values, 8 or as many as
    `settings` say; "scales" adds the input resized to 3/4 and 5/4, the map resized back. `maps`
    explains other inputs; the targets are those of the plain explanation. Scores and outputs stay
    its own; the map has the input's size. Raises InputError for scales where the model takes one
    size only.
    """
    if how == "scales":
        image.check_resizable()
    parts = [plain]
    for changed in _variants(image.array, how, settings):
        (part,) = maps(image.replaced(changed), [list(plain.targets)])
        cam = np.flip(part.cam, -1) if how == "flip" else part.cam
        parts.append(replace(part, cam=cam, size=plain.size))
    return replace(fused(parts, "mean"), layer=plain.layer)


def _variants(image: Array, how: Smooth, settings: Settings) -> Iterator[Array]:
    """Changed images, (N, channels, *size)."""
    if how == "flip":
        yield np.flip(image, -1)
    elif how == "scales":
        channels, size = image.shape[1], image.shape[2:]
        for scale in SCALES:
            other = tuple(max(1, round(extent * scale)) for extent in size)
            resized = resize(image.reshape(-1, *size), other)
            yield resized.reshape(-1, channels, *other)
    else:
        noisy = noisy_images(image, settings.seed)
        for number in range(settings.samples or NOISY_COPIES):
            yield noisy(range(number, number + 1))[0]
