"""Deep Feature Factorization: what a layer's activations are made of, and where in the images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam import Status
from gradcam_multi.cam.factorization import factorize
from gradcam_multi.colormaps import DEFAULT_COLORMAP
from gradcam_multi.errors import ImageError, InputError
from gradcam_multi.explainer import Explainer, chosen_output
from gradcam_multi.finite import finite_rows
from gradcam_multi.geometry import Geometry
from gradcam_multi.panel import PanelEntry, PanelRow, Scale, panel
from gradcam_multi.resize import resize
from gradcam_multi.sizes import batch_count, finite_items, part_of, spatial_size
from gradcam_multi.spec import Array, Inputs
from gradcam_multi.targets import Activation, class_name, class_scores, probability

if TYPE_CHECKING:  # Pillow is imported when a picture is asked for
    from PIL import Image

# Colours that stay apart for the colour-blind too (Okabe and Ito 2008), black left out.
COLOURS = np.array(
    [
        (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0),
        (204, 121, 167),
    ],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class Concepts:
    """What the activations of N items are made of: K concepts.

    `maps` (N, K, *grid) float32 in [0, 1] say how strong each concept is in each cell; 1 is where
    it is strongest in the batch. `vectors` (K, C) are the concepts, as activations of one cell at
    that strength. `logits` (K, classes) are what the network says to a layer filled with one
    concept alone; NaN where it has no class scores. `explained` is the share of the activations'
    squared norm that the concepts make up, and `status` says for each item whether it took part.
    """

    maps: Array
    vectors: Array
    logits: NDArray[np.float64]
    explained: float
    status: tuple[Status, ...]
    layer: str
    backend: str
    output: str
    size: tuple[int, ...]
    activation: Activation = None
    labels: Sequence[str] | None = field(default=None, repr=False)

    @property
    def heatmaps(self) -> Array:
        """(N, K, *input spatial) float32 in [0, 1]: the maps resized, not scaled one by one."""
        items, number = self.maps.shape[:2]
        flat = resize(self.maps.reshape(items * number, *self.maps.shape[2:]), self.size)
        return flat.reshape(items, number, *self.size)

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(K, classes) of the logits."""
        return probability(self.logits, self.activation)

    def classes(self, concept: int, most: int = 2) -> list[tuple[str, float]]:
        """Return the classes of a concept with their probabilities, the most probable first."""
        p = self.probabilities[concept]
        if np.isnan(p).any():
            return []
        ranked = np.argsort(-p, kind="stable")[:most]
        return [(class_name(int(index), self.labels), float(p[index])) for index in ranked]

    def name(self, concept: int) -> str:
        """Return what to call a concept: its number, from 1, and its most probable class."""
        return " ".join([f"{concept + 1}", *(label for label, _ in self.classes(concept, 1))])

    def heatmaps_on(self, item: int, size: Sequence[int], geometry: Geometry | None) -> Array:
        """(K, H, W) of an item over its picture, 0 where the input did not reach.

        Raises ImageError for maps that are not 2-D.
        """
        if self.maps.ndim != 4:
            raise ImageError(
                f"the maps of {self.layer!r} have {self.maps.ndim - 2} spatial axes: a picture "
                "shows 2; use `maps` or `heatmaps`"
            )
        if geometry is not None:
            return geometry.restore(self.maps[item])
        return resize(self.maps[item], (size[0], size[1]))

    def overlay(
        self, item: int, image: NDArray[np.uint8], geometry: Geometry | None = None,
        alpha: float = 0.7,
    ) -> NDArray[np.uint8]:  # fmt: skip
        """Colour a picture, (H, W, 3) uint8 RGB, by the strongest concept of each pixel.

        A concept k has COLOURS[k % 7], laid over with `alpha` times its strength there. `geometry`
        is what the preprocessing says of the picture; without it the input is all of the picture.
        """
        strength = self.heatmaps_on(item, image.shape[:2], geometry)
        strongest = strength.argmax(0)
        weight = alpha * np.clip(strength.max(0), 0, 1)[..., None]
        colours = COLOURS[strongest % len(COLOURS)]
        mixed = image * (1 - weight) + colours * weight
        out: NDArray[np.uint8] = np.rint(mixed).astype(np.uint8)
        return out

    def to_pil(
        self, images: Sequence[NDArray[np.uint8]], geometry: Sequence[Geometry] | None = None,
        **options: Any,
    ) -> "Image.Image":  # fmt: skip
        """Draw a row an item: the picture, then each concept over it.

        Above each concept stands its most probable class with its probability. `images` are N
        pictures, (H, W, 3) uint8 RGB; `options` are those of `panel`. Raises ImageError where their
        number is not that of the items, and for maps that are not 2-D.
        """
        if len(images) != len(self.maps):
            raise ImageError(
                f"{len(images)} pictures were given for {len(self.maps)} items: give one for each"
            )
        rows = []
        scale = Scale(options.get("colormap", DEFAULT_COLORMAP), "absent", "strongest of the batch")
        for item, image in enumerate(images):
            where = None if geometry is None else geometry[item]
            strength = np.clip(self.heatmaps_on(item, image.shape[:2], where), 0, 1)
            best = [self.classes(k, 1) for k in range(len(self.vectors))]
            entries = tuple(
                PanelEntry(
                    heatmap, self.name(k), best[k][0][1] if best[k] else None, "concept",
                    self.layer, "" if self.status[item] == "ok" else self.status[item], scale,
                )
                for k, heatmap in enumerate(strength)
            )  # fmt: skip
            rows.append(PanelRow(image, entries, f"item {item}"))
        return panel(rows, **options)


def concepts(model: Any, inputs: Inputs, number: int = 5, **explainer: Any) -> Concepts:
    """Factorize a layer's activations over a batch into concepts (Collins 2018, arXiv:1806.10206).

    The activations of all cells of all items, (N * cells, C), become a product of how strong each
    concept is in each cell and what it looks like, neither with negative entries; what is negative
    in the activations counts as zero, as behind the paper's ReLU. So one concept is the same thing
    in all images. `model` is an Explainer, or what it takes, `explainer` its arguments (layer,
    output, labels, batch_size ...). A row of tokens keeps the first item's class token when the
    network is asked about a concept.

    Raises InputError where `number` is below 1 or more than there are channels or cells, and what
    `Explainer` raises.
    """
    opened = model if isinstance(model, Explainer) else Explainer(model, **explainer)
    count = batch_count(inputs)
    name = opened._choice(inputs).name
    parts = []
    step = opened.batch_size or count
    for start in range(0, count, step):
        chunk = inputs if step >= count else part_of(inputs, slice(start, start + step))
        with opened.traced(chunk) as trace:
            parts.append(trace.activations[0])
    activations = np.concatenate(parts)
    grid, channels = activations.shape[2:], activations.shape[1]
    sound = finite_items(inputs) & finite_rows(activations)
    rows = np.moveaxis(np.maximum(activations[sound], 0), 1, -1).reshape(-1, channels)
    if not 1 <= number <= min(rows.shape):
        raise InputError(
            f"{number} concepts were asked for at layer {name!r}, which has {channels} channels in "
            f"{len(rows)} cells of {int(sound.sum())} finite items: give from 1 to "
            f"{min(rows.shape)}"
        )
    found = factorize(rows, number)
    maps = np.zeros((count, number, *grid), np.float32)
    maps[sound] = np.moveaxis(found.left.reshape(-1, *grid, number), -1, 1)
    vectors = found.right.astype(np.float32)
    logits, output, activation = _asked(opened, inputs, name, vectors)
    return Concepts(
        maps, vectors, logits, found.explained,
        tuple("ok" if finite else "nonfinite" for finite in sound), name, opened.model.backend,
        output, spatial_size(inputs, opened.model.inputs, activations), activation, opened.labels,
    )  # fmt: skip


def _asked(
    explainer: Explainer, inputs: Inputs, layer: str, vectors: Array
) -> tuple[NDArray[np.float64], str, Activation]:
    """The logits of each concept alone, in all cells of the layer; the output, its activation."""
    specs = explainer.model.inputs
    fixed = any(spec.shape and spec.shape[0] is not None for spec in specs)
    few = inputs if fixed else part_of(inputs, slice(0, 1))
    rows = []
    with explainer.traced(few) as trace:
        shape = trace.activations[0].shape
        output = chosen_output(explainer.output, {n: z.shape for n, z in trace.logits.items()})
        told = trace.logits[output]
        for vector in vectors if sum(n != 1 for n in told.shape[1:]) <= 1 else ():
            column = vector.reshape(1, -1, *(1,) * (len(shape) - 2))
            filled = np.ascontiguousarray(np.broadcast_to(column, shape))
            rows.append(class_scores(trace.replay(layer, filled)[output], output)[0])
    logits = np.array(rows) if rows else np.full((len(vectors), 1), np.nan)
    activation = next((s.activation for s in explainer.model.outputs if s.name == output), None)
    return logits, output, activation
