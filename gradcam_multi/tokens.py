"""Rows of tokens as maps: how they lie over the image, and arrays folded and unfolded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from gradcam_multi.errors import LayerError
from gradcam_multi.layers import Layers
from gradcam_multi.spec import Array, Folding, Layer, Trace

Grid = tuple[int, ...]
Sizes = Sequence[tuple[int | None, ...]]
"""Spatial sizes of the inputs that are images, (H, W) or (D, H, W); None where free."""

MOST_PREFIX = 16  # class, distillation and register tokens; more is rather another grid
_HALVINGS = 4  # patches are merged so many times at most, after the last convolution


def grids_behind(layers: Iterable[Layer]) -> dict[str, tuple[Grid, ...]]:
    """Return, for each layer, the grids of the convolutions that it depends on, last first."""
    found: dict[str, tuple[Grid, ...]] = {}
    for layer in layers:
        behind = [g for name in reversed(layer.inputs) for g in found.get(name, ())]
        own = tuple(n for n in layer.grid if n is not None)
        if layer.role == "conv" and 2 <= len(own) == len(layer.grid) and prod(own) > 1:
            behind.insert(0, own)
        found[layer.name] = tuple(dict.fromkeys(behind))
    return found


def folding_of(
    name: str, tokens: int, grids: Sequence[Grid], sizes: Sizes, asked: Grid | None = None
) -> Folding | None:
    """Return how a layer's row of tokens lies over the image; None where the model sees none.

    `grids` are those of the convolutions before the layer. The tokens are the cells of one of
    these, or of one whose axes were halved, or of the input cut into whole patches, behind as few
    further tokens as can be. `asked` is the grid that the caller names; one axis leaves the row.

    Raises LayerError where no grid fits, or several do, and where the one asked for does not.
    """
    if asked is not None:
        return _asked(name, tokens, asked)
    if not sizes:
        return None
    ranks = {len(size) for size in sizes}
    known = [grid for grid in grids if len(grid) in ranks]
    for candidates in (known, _halved(known), _patched(sizes)):
        fitting = {grid: tokens - prod(grid) for grid in candidates}
        fitting = {g: n for g, n in fitting.items() if 0 <= n <= MOST_PREFIX and n < prod(g) > 1}
        least = min(fitting.values(), default=0)
        best = [grid for grid, prefix in fitting.items() if prefix == least]
        if len(best) == 1:
            return Folding(best[0], least)
        if best:
            raise _unsure(name, tokens, f"fit {' and '.join(map(_times, best))} alike", best[0])
    seen = ", ".join(map(_times, known)) or "none"
    size = ", ".join(_times(size) for size in sizes)
    raise _unsure(
        name, tokens, f"fit neither the input ({size}) nor a convolution's grid ({seen})", None
    )


def fold_rows(layers: Layers, sizes: Sizes) -> Layers:
    """Return the layers, rows of tokens with their folding where it can be told."""
    grids = grids_behind(layers)

    def folded(layer: Layer) -> Layer:
        tokens = layer.grid[0] if len(layer.grid) == 1 and layer.spatial else None
        if tokens is None:
            return layer
        try:
            return replace(layer, folding=folding_of(layer.name, tokens, grids[layer.name], sizes))
        except LayerError:
            return layer

    return Layers(map(folded, layers))


def fold(array: Array, folding: Folding) -> Array:
    """Turn (N, C, T) into (N, C, *grid), the prefix cut off."""
    return array[..., folding.prefix :].reshape(*array.shape[:2], *folding.grid)


def unfold(array: Array, folding: Folding, row: Array) -> Array:
    """Turn (N, C, *grid) into (N, C, T) again, with the prefix of `row` (N or 1, C, T)."""
    prefix = row[..., : folding.prefix]
    prefix = np.broadcast_to(prefix, (len(array), *prefix.shape[1:]))
    return np.concatenate([prefix, array.reshape(*array.shape[:2], -1)], axis=2)


class FoldedTrace:
    """A trace of one layer of tokens, its arrays (N, C, *grid); implements the same contract.

    `dead` says that scores were found to depend on the prefix alone: behind the last attention of
    a model that reads its class token, the other tokens lead nowhere.
    """

    def __init__(self, trace: Trace, folding: Folding) -> None:
        self._trace, self.folding = trace, folding
        self.outputs, self.logits = trace.outputs, trace.logits
        self._row = trace.activations[0]
        self.activations = (fold(self._row, folding),)
        self.dead = False

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply cotangents of the logits back to the layer."""
        (gradient,) = self._trace.vjp(cotangents)
        prefix = self.folding.prefix
        self.dead = bool(gradient[..., :prefix].any() and not gradient[..., prefix:].any())
        return (fold(gradient, self.folding),)

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Run forward from the layer on with other patch tokens and the run's own prefix."""
        return self._trace.replay(layer, unfold(activation, self.folding, self._row))


def _asked(name: str, tokens: int, asked: Grid) -> Folding:
    prefix = tokens - prod(asked)
    if prefix < 0 or not asked or min(asked) < 1:
        raise LayerError(
            f"grid={asked} was asked for at layer {name!r}, which makes {tokens} tokens: give one "
            "of at most as many cells"
        )
    return Folding(asked, prefix)


def _halved(grids: Iterable[Grid]) -> list[Grid]:
    """Grids halved up to four times, rounded down or up; time is not halved with rows, columns."""
    found: dict[Grid, None] = {}
    for grid in grids:
        for times in range(1, _HALVINGS + 1):
            down = tuple(n >> times for n in grid)
            up = tuple(-(-n >> times) for n in grid)
            for halved in (down, up):
                found[halved] = None
                if len(grid) == 3:
                    found[(grid[0], *halved[1:])] = None
    return list(found)


def _patched(sizes: Sizes) -> list[Grid]:
    """Grids of whole square patches of the images."""
    found: dict[Grid, None] = {}
    for size in sizes:
        known = tuple(n for n in size if n is not None)
        if len(known) == len(size):
            for patch in range(2, min(known) + 1):
                if all(n % patch == 0 for n in known):
                    found[tuple(n // patch for n in known)] = None
    return list(found)


def _times(grid: Sequence[int | None]) -> str:
    return "x".join("?" if n is None else str(n) for n in grid)


def _unsure(name: str, tokens: int, found: str, example: Grid | None) -> LayerError:
    side = int((tokens) ** 0.5)
    return LayerError(
        f"layer {name!r} makes {tokens} tokens, which {found}: say how they lie over the image "
        f"with grid=(rows, columns), e.g. grid={example or (side, side)}; tokens in front of "
        "these are left out"
    )
