"""Methods that run the model again: with masked inputs, noisy inputs, or changed activations.

Each is a function of a `Probe` and returns the weights of the channels `(N, C)`; `reciprocam` and
`rise` return the map itself, `(N, *grid)`, or `(N, *size)` where it is made in the input. Random
numbers come from NumPy, one draw for all items of a batch: a map is then the same whatever items
stand beside it, and in every framework.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.cam.gradients import gradcam
from gradcam_multi.cam.probe import Make, Probe, Scores
from gradcam_multi.cam.scaling import heatmaps, is_flat
from gradcam_multi.resize import resize
from gradcam_multi.spec import Array

SSCAM_SAMPLES, SSCAM_NOISE = 35, 2.0  # torch-cam's
ISCAM_STEPS = 10  # torch-cam's
RISE_MASKS, RISE_CELLS, RISE_KEPT = 4000, 7, 0.5  # Petsiuk 2018, section 4: VGG's 4000, h = w = 7
SMOOTH_SAMPLES, SMOOTH_NOISE = 32, 0.15  # of the input's range; Smilkov 2017: 10 to 20 per cent
FINER_CLASSES, FINER_ALPHA = 3, 1.0  # pytorch-grad-cam's
# The difference of two scores below a few float32 roundings is none.
_EQUAL = 8 * np.finfo(np.float32).eps


def scorecam(probe: Probe) -> Scores:
    """Weigh each channel by the class's probability where its own map masks the input (Wang 2020).

    The mask is A_k resized to the input and min-max scaled; a constant channel has no weight. What
    is masked becomes 0, in the unit of the preprocessed input.
    """
    return _of_varied(probe, _masked_scores(probe, probability=True))


def scorecam_softmax(probe: Probe) -> Scores:
    """Like `scorecam`, but weigh by the softmax over channels of the targets' own scores.

    So pytorch-grad-cam and torch-cam read the method; the softmax leaves constant channels out.
    """
    scores = _masked_scores(probe, probability=False)
    scores[_constant(probe.activations)] = -np.inf
    highest = scores.max(1, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    total = weights.sum(1, keepdims=True)
    return _of_varied(probe, np.divide(weights, total, out=weights, where=total > 0))


def sscam(probe: Probe) -> Scores:
    """Like `scorecam`, each probability a mean over masks with normal noise (Wang 2020, SS-CAM)."""
    samples = probe.samples or SSCAM_SAMPLES
    shape = probe.image.shape[2:]

    @lru_cache(maxsize=1)
    def noise(sample: int) -> Array:
        rng = np.random.default_rng([probe.seed, sample])
        return rng.normal(0, SSCAM_NOISE, shape).astype(np.float32)

    def noisy(mask: Array, sample: int) -> Array:
        return mask + noise(sample)

    return _of_varied(probe, _masked_scores(probe, samples=samples, change=noisy))


def iscam(probe: Probe) -> Scores:
    """Like `scorecam`, each probability a mean over the mask times 1/n, 2/n ... 1 (Naidu 2020)."""
    steps = probe.samples or ISCAM_STEPS

    def scaled(mask: Array, sample: int) -> Array:
        return mask * np.float32((sample + 1) / steps)

    return _of_varied(probe, _masked_scores(probe, samples=steps, change=scaled))


def _masked_scores(
    probe: Probe,
    *,
    probability: bool = True,
    samples: int = 1,
    change: Callable[[Array, int], Array] | None = None,
) -> Scores:
    """(N, C) scores where a channel's map masks the input, means over samples of changed masks.

    All channels are masked by one sample's change before the next sample comes.
    """
    image, activations = probe.image, probe.activations
    size, channels = image.shape[2:], activations.shape[1]
    room = _room(image.shape)

    def make(numbers: range) -> Array:
        made = room(len(numbers))
        maps = activations[:, [number % channels for number in numbers]].swapaxes(0, 1)
        masks = heatmaps(maps.reshape(-1, *maps.shape[2:]), size)
        masks = masks.reshape(*maps.shape[:2], *size)
        for row, number, mask in zip(made, numbers, masks, strict=True):
            changed = mask if change is None else change(mask, number // channels)
            np.multiply(image, changed[:, None], out=row)
        return made

    scores = probe.image_scores(channels * samples, make, probability=probability)
    mean: Scores = scores.reshape(samples, channels, -1).mean(0).T
    return mean


def _room(shape: tuple[int, ...]) -> Callable[[int], Array]:
    """Room for so many variants (variants, *shape), the same for every batch."""
    room = np.empty((0, *shape), np.float32)

    def taken(count: int) -> Array:
        nonlocal room
        if len(room) < count:
            room = np.empty((count, *shape), np.float32)
        return room[:count]

    return taken


def _constant(activations: Array) -> NDArray[np.bool_]:
    """(N, C) whether a channel is the same in all cells, but for rounding."""
    flat = activations.reshape(*activations.shape[:2], -1)
    return is_flat(flat.min(-1), flat.max(-1))


def _of_varied(probe: Probe, weights: Scores) -> Scores:
    """Weights (N, C), those of constant channels zero."""
    return np.where(_constant(probe.activations), 0.0, weights)


def ablationcam(probe: Probe) -> Scores:
    """Weigh each channel by what the score loses without it (Desai 2020).

    w_k = S - S_k, S_k the score with A_k set to zero. The paper divides by S, which changes no
    heatmap where S is positive, and turns evidence over where it is negative.
    """
    activations = probe.activations
    channels = activations.shape[1]

    room = _room(activations.shape)

    def make(numbers: range) -> Array:
        made = room(len(numbers))
        made[:] = activations
        for row, number in zip(made, numbers, strict=True):
            if number:  # the first is the whole, by the same way through the model
                row[:, number - 1] = 0
        return made

    scores = probe.replayed_scores(channels + 1, make)
    whole, without = scores[0], scores[1:]
    lost = whole - without
    lost[np.abs(lost) <= _EQUAL * np.maximum(np.abs(whole), np.abs(without))] = 0
    weights: Scores = lost.T
    return weights


def reciprocam(probe: Probe) -> Array:
    """Give each cell the class's probability where only its surroundings are left (Byun 2022).

    The activations are multiplied by 1/4, 1/2, 1/4 along each axis around the cell and by zero
    elsewhere, and the network is run on from there.
    """
    activations = probe.activations
    grid = activations.shape[2:]
    cells = list(np.ndindex(*grid))

    room = _room(activations.shape)

    def make(numbers: range) -> Array:
        made = room(len(numbers))
        for row, number in zip(made, numbers, strict=True):
            np.multiply(activations, _window(cells[number], grid), out=row)
        return made

    scores = probe.replayed_scores(len(cells), make, probability=True)
    return scores.T.reshape(-1, *grid).astype(np.float32)


def _window(cell: Sequence[int], grid: Sequence[int]) -> Array:
    """A 3-cell binomial window around a cell, cut at the border; no blur along axes of one cell."""
    window = np.ones((1,) * len(grid), np.float32)
    for axis, (place, extent) in enumerate(zip(cell, grid, strict=True)):
        along = np.zeros(extent, np.float32)
        for step, weight in ((-1, 0.25), (0, 0.5), (1, 0.25)):
            if 0 <= place + step < extent:
                along[place + step] = weight
        window = window * along.reshape([-1 if a == axis else 1 for a in range(len(grid))])
    return window


def smooth_gradcam_plus_plus(probe: Probe) -> Scores:
    """Grad-CAM++ of the means of g, g^2 and g^3 over noisy copies of the input (Omeiza 2019).

    The noise is normal, its deviation 15 per cent of each item's range of values. A is that of the
    input as it is. The unit of g is taken out as in Grad-CAM++.
    """
    samples = probe.samples or SMOOTH_SAMPLES
    activations = probe.activations
    flat = activations.reshape(*activations.shape[:2], -1)
    moments = np.zeros((3, *flat.shape))
    for found in probe.gradients_at(samples, noisy_images(probe.image, probe.seed)):
        gradients = found.reshape(flat.shape).astype(np.float64)
        power = gradients / samples
        for moment in moments:
            moment += power
            power *= gradients
    scale = np.sqrt(moments[1].max((1, 2), keepdims=True))  # float64: squares do not underflow
    units = [
        np.divide(m, scale**p, where=scale > 0, out=np.zeros(m.shape))
        for p, m in enumerate(moments, start=1)
    ]
    denominator = 2 * units[1] + units[2] * flat.sum(-1, dtype=np.float64, keepdims=True)
    alpha = np.divide(units[1], denominator, out=np.zeros(flat.shape), where=denominator != 0)
    weights: Scores = (alpha * np.maximum(units[0], 0)).sum(-1) * scale[..., 0]
    return weights


def noisy_images(image: Array, seed: int) -> Make:
    """Make (N, channels, *size) images with normal noise of 15 per cent of each item's range."""
    axes = tuple(range(1, image.ndim))
    spread = np.nan_to_num(image.max(axes, keepdims=True) - image.min(axes, keepdims=True))
    room = _room(image.shape)

    def make(numbers: range) -> Array:
        made = room(len(numbers))
        for row, number in zip(made, numbers, strict=True):
            rng = np.random.default_rng([seed, number])
            noise = rng.normal(0, SMOOTH_NOISE, image.shape[1:]).astype(np.float32)
            np.multiply(spread, noise, out=row)
            row += image
        return made

    return make


def rise(probe: Probe) -> Array:
    """Average random masks, each times the class's probability under it (Petsiuk 2018).

    A mask is a grid of 7 cells an axis, each kept with probability 1/2, resized to eight cells'
    size and cut to the input's at a random place. The map has the input's size.
    """
    image = probe.image
    size, count = image.shape[2:], probe.samples or RISE_MASKS
    step = [ceil(extent / RISE_CELLS) for extent in size]
    room = _room(image.shape)

    def drawn(number: int) -> tuple[Array, tuple[int, ...]]:
        rng = np.random.default_rng([probe.seed, number])
        grid = (rng.random((RISE_CELLS,) * len(size)) < RISE_KEPT).astype(np.float32)
        return grid, tuple(int(rng.integers(0, extent)) for extent in step)

    def masks(grids: Array, start: tuple[int, ...]) -> Array:
        large = resize(grids, tuple((RISE_CELLS + 1) * extent for extent in step))
        cut: Array = large[:, *(slice(s, s + n) for s, n in zip(start, size, strict=True))]
        return cut

    def make(numbers: range) -> Array:
        made = room(len(numbers))
        for row, number in zip(made, numbers, strict=True):
            grid, start = drawn(number)
            np.multiply(image, masks(grid[None], start), out=row)
        return made

    scores = probe.image_scores(count, make, probability=True)
    # Resizing is linear: of masks that were cut at the same place, the grids are summed.
    sums: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for number, row in enumerate(scores):
        grid, start = drawn(number)
        sums[start] = sums.get(start, 0) + np.multiply.outer(row, grid)
    out = np.zeros((len(image), *size))
    for start, grids in sums.items():
        out += masks(grids.astype(np.float32), start)
    mean: Array = (out / (count * RISE_KEPT)).astype(np.float32)
    return mean


def randomcam(probe: Probe) -> Scores:
    """Weigh each channel by a uniform random number in [-1, 1): a baseline, no explanation."""
    activations = probe.activations
    rng = np.random.default_rng(probe.seed)
    return np.tile(rng.uniform(-1, 1, activations.shape[1]), (len(activations), 1))


def finercam(probe: Probe) -> Scores:
    """Grad-CAM of how far a class's score exceeds those of the most similar ones (Zhang 2025).

    They are the three whose logits are nearest, weighted by the softmax of all logits. Raises
    TargetError for a target that is about no class.
    """
    logits = probe.logits
    cotangents = np.zeros(logits.shape)
    for row, z, chosen in zip(cotangents, logits, probe.classes, strict=True):
        distance = np.abs(z - z[chosen])
        distance[chosen] = -1  # first, whatever ties there are
        similar = np.argsort(distance, kind="stable")[1 : FINER_CLASSES + 1]
        share = np.exp(z[similar] - z[similar].max()) if len(similar) else np.zeros(0)
        row[chosen] = 1
        row[similar] = -FINER_ALPHA * share / share.sum()
    activations, gradients = probe.activations, probe.pulled(cotangents)
    flat = (*activations.shape[:2], -1)
    return gradcam(activations.reshape(flat), gradients.reshape(flat))
