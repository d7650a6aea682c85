"""Every method of activations alone, or that runs the model again, as its paper writes it: slowly.

In float64, one item at a time, in loops over channels and cells; nothing is shared with the
package but the constants and the order in which random numbers are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import ceil, floor

import numpy as np


@dataclass
class Item:
    """One item under explanation, and a model as functions of one image or one activation."""

    image: np.ndarray
    a: np.ndarray
    chosen: int
    image_logits: Callable
    layer_logits: Callable
    gradient_at: Callable  # of an image: the derivative of the chosen logit to the layer
    pulled: Callable  # of a cotangent of the logits
    seed: int = 0
    samples: int | None = None

    def probability(self, logits):
        exponential = np.exp(logits - logits.max())
        return exponential[self.chosen] / exponential.sum()

    def masked(self, mask):
        return self.image_logits(np.stack([channel * mask for channel in self.image]))


def cells(grid):
    return list(np.ndindex(*grid))


def relu(values):
    return np.vectorize(lambda x: max(x, 0.0))(values)


def weighted_sum(a, weights):
    out = np.zeros(a.shape[1:])
    for k in range(len(a)):
        for p in cells(a.shape[1:]):
            out[p] += weights[k] * a[(k, *p)]
    return out


def slow_resize(values, size):
    """Half-pixel-centred linear interpolation, cell by cell, the border repeated."""
    grid = values.shape
    out = np.zeros(size)
    for p in cells(size):
        near = []
        for axis, place in enumerate(p):
            x = (place + 0.5) * grid[axis] / size[axis] - 0.5
            x = min(max(x, 0.0), grid[axis] - 1.0)
            low = floor(x)
            high = min(low + 1, grid[axis] - 1)
            near.append([(low, 1 - (x - low)), (high, x - low)])
        for corner in product(*near):
            weight = np.prod([w for _, w in corner])
            out[p] += weight * values[tuple(i for i, _ in corner)]
    return out


def oriented(component, guide):
    """The sign that correlates with the guide."""
    return component * np.sign(((component - component.mean()) * (guide - guide.mean())).sum())


def principal(features):
    """The first principal component by a full decomposition of the (P, C) matrix."""
    matrix = features.reshape(len(features), -1).T
    matrix = matrix - matrix.mean(0)
    _, _, right = np.linalg.svd(matrix, full_matrices=True)
    return oriented(matrix @ right[0], features.mean(0).ravel()).reshape(features.shape[1:])


def slow_eigencam(a):
    return relu(principal(a))


def slow_eigengradcam(a, g):
    return relu(principal(a * g))


def slow_kpca(a):
    grid = a.shape[1:]
    points = [np.array([a[(k, *p)] - a[k].mean() for k in range(len(a))]) for p in cells(grid)]
    kernel = np.array([[np.tanh(x @ y / len(a) + 1) for y in points] for x in points])
    centring = np.eye(len(points)) - 1 / len(points)
    values, vectors = np.linalg.eig(centring @ kernel @ centring)
    best = values.real.argmax()
    vector = vectors[:, best].real
    component = vector / np.linalg.norm(vector) * np.sqrt(values.real[best])
    return relu(oriented(component, a.mean(0).ravel()).reshape(grid))


def slow_fem(a):
    out = np.zeros(a.shape[1:])
    for channel in a:
        mean = sum(channel.ravel()) / channel.size
        deviation = np.sqrt(sum((channel.ravel() - mean) ** 2) / channel.size)
        for p in cells(channel.shape):
            if deviation > 0 and channel[p] >= mean + 2 * deviation:
                out[p] += mean
    return relu(out)


def slow_random(item):
    weights = np.random.default_rng(item.seed).uniform(-1, 1, len(item.a))
    return relu(weighted_sum(item.a, weights))


def unit_mask(item, channel):
    """A channel resized to the input and scaled to [0, 1]; None for a constant one."""
    if channel.max() == channel.min():
        return None
    large = slow_resize(channel, item.image.shape[1:])
    return (large - large.min()) / (large.max() - large.min())


def slow_scorecam(item):
    weights = np.zeros(len(item.a))
    for k, channel in enumerate(item.a):
        mask = unit_mask(item, channel)
        if mask is not None:
            weights[k] = item.probability(item.masked(mask))
    return relu(weighted_sum(item.a, weights))


def slow_scorecam_softmax(item):
    scores = {}
    for k, channel in enumerate(item.a):
        mask = unit_mask(item, channel)
        if mask is not None:
            scores[k] = item.masked(mask)[item.chosen]
    total = sum(np.exp(score) for score in scores.values())
    weights = [np.exp(scores[k]) / total if k in scores else 0.0 for k in range(len(item.a))]
    return relu(weighted_sum(item.a, weights))


def slow_sscam(item):
    samples = item.samples or 35
    weights = np.zeros(len(item.a))
    for k, channel in enumerate(item.a):
        mask = unit_mask(item, channel)
        for sample in range(samples if mask is not None else 0):
            rng = np.random.default_rng([item.seed, sample])
            noisy = mask + rng.normal(0, 2.0, mask.shape).astype(np.float32)
            weights[k] += item.probability(item.masked(noisy)) / samples
    return relu(weighted_sum(item.a, weights))


def slow_iscam(item):
    steps = item.samples or 10
    weights = np.zeros(len(item.a))
    for k, channel in enumerate(item.a):
        mask = unit_mask(item, channel)
        for step in range(1, steps + 1 if mask is not None else 1):
            weights[k] += item.probability(item.masked(mask * step / steps)) / steps
    return relu(weighted_sum(item.a, weights))


def slow_ablation(item):
    whole = item.layer_logits(item.a)[item.chosen]
    weights = []
    for k in range(len(item.a)):
        without = item.a.copy()
        without[k] = 0
        weights.append(whole - item.layer_logits(without)[item.chosen])
    return relu(weighted_sum(item.a, weights))


def slow_recipro(item):
    """The authors' Gaussian mask: 1/4 at the cell, 1/8 beside it, 1/16 at its corners (in 2-D)."""
    grid = item.a.shape[1:]
    out = np.zeros(grid)
    for centre in cells(grid):
        kept = np.zeros_like(item.a)
        for p in cells(grid):
            distance = [abs(i - j) for i, j in zip(p, centre, strict=True)]
            if max(distance) <= 1:
                share = 0.5 ** len(grid) * 0.5 ** sum(distance)
                kept[(slice(None), *p)] = share * item.a[(slice(None), *p)]
        out[centre] = item.probability(item.layer_logits(kept))
    return out


def slow_smooth_plus_plus(item):
    samples = item.samples or 32
    spread = item.image.max() - item.image.min()
    gradients = []
    for sample in range(samples):
        rng = np.random.default_rng([item.seed, sample])
        noise = rng.normal(0, 0.15, item.image.shape).astype(np.float32)
        gradients.append(item.gradient_at(item.image + spread * noise))
    unit = np.sqrt(max(sum(g**2 for g in gradients).ravel()) / samples)
    weights = np.zeros(len(item.a))
    for k in range(len(item.a)):
        for p in cells(item.a.shape[1:]):
            values = [g[(k, *p)] / unit if unit else 0.0 for g in gradients]
            first, second, third = (sum(v**n for v in values) / samples for n in (1, 2, 3))
            denominator = 2 * second + third * item.a[k].sum()
            if denominator:
                weights[k] += second / denominator * max(first, 0) * unit
    return relu(weighted_sum(item.a, weights))


def slow_rise(item):
    count, size = item.samples or 4000, item.image.shape[1:]
    out = np.zeros(size)
    for number in range(count):
        rng = np.random.default_rng([item.seed, number])
        grid = (rng.random((7,) * len(size)) < 0.5).astype(float)
        cell = [ceil(extent / 7) for extent in size]
        start = [int(rng.integers(0, extent)) for extent in cell]
        large = slow_resize(grid, tuple(8 * extent for extent in cell))
        mask = large[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
        out += item.probability(item.masked(mask)) * mask
    return out / count / 0.5


def slow_finer(item):
    logits = item.image_logits(item.image)
    others = sorted(
        (c for c in range(len(logits)) if c != item.chosen),
        key=lambda c: abs(logits[c] - logits[item.chosen]),
    )[:3]
    total = sum(np.exp(logits[c]) for c in others)
    cotangent = np.zeros(len(logits))
    cotangent[item.chosen] = 1
    for c in others:
        cotangent[c] = -np.exp(logits[c]) / total
    g = item.pulled(cotangent)
    return relu(weighted_sum(item.a, [sum(g[k].ravel()) / g[k].size for k in range(len(g))]))


def slow_cam(item):
    """The dense layer's weights: what the score gains when a channel's mean grows by one."""
    blank = np.zeros_like(item.a)
    weights = []
    for k in range(len(item.a)):
        one = blank.copy()
        one[k] = 1
        gain = item.layer_logits(one) - item.layer_logits(blank)
        weights.append(gain[item.chosen])
    return weighted_sum(item.a, weights)


def slow_shapley(item):
    """Gradient and Hessian of the score z_c + log p_c by central differences, channel by channel.

    The mean over space of a derivative is that along the channel's indicator, over its cells.
    """
    step = 1e-3

    def score(a):
        logits = item.layer_logits(a).astype(float)
        return logits[item.chosen] + np.log(item.probability(logits))

    weights = []
    for k in range(len(item.a)):
        along = np.zeros_like(item.a)
        along[k] = 1

        def slope(a, along=along):
            return (score(a + step * along) - score(a - step * along)) / (2 * step)

        curved = (slope(item.a * (1 + step)) - slope(item.a * (1 - step))) / (2 * step)
        weights.append((slope(item.a) - curved / 2) / item.a[k].size)
    return relu(weighted_sum(item.a, weights))


OF_ACTIVATIONS = {"eigencam": slow_eigencam, "kpca-cam": slow_kpca, "fem": slow_fem}
OF_PROBES = {
    "ablationcam": slow_ablation,
    "finer-cam": slow_finer,
    "is-cam": slow_iscam,
    "random-cam": slow_random,
    "recipro-cam": slow_recipro,
    "rise": slow_rise,
    "scorecam": slow_scorecam,
    "scorecam-softmax": slow_scorecam_softmax,
    "smoothgradcam++": slow_smooth_plus_plus,
    "ss-cam": slow_sscam,
}
# Of networks that are affine behind the layer alone.
OF_AFFINE = {"cam": slow_cam, "shapley-cam": slow_shapley}
