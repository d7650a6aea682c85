"""Maps averaged over changed inputs."""

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
from gradcam_multi.spec import Array, Inputs

Smooth = Literal["flip", "noise"]
NOISY_COPIES = 8
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
    `settings` say. `maps` explains other inputs; the targets are those of the plain explanation.
    Scores and outputs stay its own; the map has the input's size.
    """
    parts = [plain]
    for changed, mirrored in _variants(image.array, how, settings):
        (part,) = maps(image.replaced(changed), [list(plain.targets)])
        parts.append(replace(part, cam=np.flip(part.cam, -1)) if mirrored else part)
    return replace(fused(parts, "mean"), layer=plain.layer)


def _variants(image: Array, how: Smooth, settings: Settings) -> Iterator[tuple[Array, bool]]:
    """Changed images, and whether each is mirrored."""
    if how == "flip":
        yield np.flip(image, -1), True
    else:
        for noisy in noisy_images(image, settings.samples or NOISY_COPIES, settings.seed):
            yield noisy, False
