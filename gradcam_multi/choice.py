"""The layer of an explanation: named or chosen, and how its tokens lie over the image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gradcam_multi.errors import LayerError, NoDefaultLayerError
from gradcam_multi.layers import Ends, check_channels, final_feature_map, residual_stream
from gradcam_multi.sizes import image_sizes
from gradcam_multi.spec import Inputs, Layer, Model, TensorSpec, Trace
from gradcam_multi.tokens import FoldedTrace, Grid, Sizes, folding_of, grids_behind


@dataclass(frozen=True)
class Choice:
    """The layer to explain, for inputs of some size.

    `upstream` are the layers to move up to, in turn, where the chosen one's tokens turn out to have
    no gradient; none where the user named the layer. `default` is the one that the rule chooses,
    or None. `grids` are those of the convolutions before each of the layers. `listed` are all
    layers of the model.
    """

    name: str
    upstream: tuple[str, ...]
    default: str | None
    grids: Mapping[str, tuple[Grid, ...]]
    listed: Sequence[Layer]


def outputs_of(model: Model, listed: Sequence[Layer]) -> dict[str, tuple[int | None, ...] | None]:
    """Return the outputs that listed layers make, with their shapes, in the model's own order."""
    made = {layer.output: layer.shape for layer in listed if layer.output is not None}
    declared = [spec.name for spec in model.outputs if spec.name in made]
    return {name: made[name] for name in dict.fromkeys([*declared, *made])}


def choose(listed: Sequence[Layer], named: str | None, output: Ends) -> Choice:
    """Return the layer named, or the default one for an output, or for several.

    Raises NoDefaultLayerError, and LayerError for a named layer without known channels.
    """
    default = None
    try:
        default = final_feature_map(listed, output).name
    except NoDefaultLayerError:
        if named is None:
            raise
    grids = grids_behind(listed)
    if named is None and default is not None:
        stream = [layer.name for layer in residual_stream(listed, output)]
        upstream = tuple(stream[stream.index(default) + 1 :]) if default in stream else ()
        known = {n: grids[n] for n in (default, *upstream)}
        return Choice(default, upstream, default, known, listed)
    name = str(named)  # perhaps an alias, which the adapter knows: then any convolution counts
    check_channels(listed, name)
    every = tuple(dict.fromkeys(grid for found in grids.values() for grid in found))
    return Choice(name, (), default, {name: grids.get(name, every)}, listed)


def moved(choice: Choice) -> Choice:
    """Return the choice of the next layer upstream."""
    return replace(choice, name=choice.upstream[0], upstream=choice.upstream[1:])


def map_rank(choice: Choice, inputs: Inputs, specs: Sequence[TensorSpec]) -> int:
    """Return how many spatial axes a map of the layer has; a row of tokens lies over an image.

    Raises LayerError where the layer has no grid.
    """
    listed = {layer.name: layer for layer in choice.listed}
    layer = listed.get(choice.name) or listed.get(str(choice.default))  # it may be an alias
    if layer is not None and layer.shape is not None:
        _check_grid(choice.name, layer.shape)
    rank, sizes = len(layer.grid) if layer else 0, image_sizes(inputs, specs)
    return len(sizes[0]) if sizes and rank < 2 else rank


def check_items(name: str, found: int, given: int) -> None:
    """Raise LayerError where a layer has other items than the batch."""
    if found != given:
        raise LayerError(
            f"layer {name!r} makes {found} items for {given} inputs (windows or crops of them, in "
            "a batch of their own): name a layer before these are cut or after they are joined"
        )


def on_grid(trace: Trace, choice: Choice, sizes: Sizes, grid: Grid | None) -> Trace:
    """Return a trace of the chosen layer whose arrays have its grid, tokens folded.

    Raises LayerError where the layer has no grid, or its tokens cannot be placed.
    """
    shape = trace.activations[0].shape
    _check_grid(choice.name, shape)
    if len(shape) > 3:
        if grid not in (None, shape[2:]):
            raise LayerError(
                f"grid={grid} was asked for at layer {choice.name!r}, which has the grid "
                f"{shape[2:]} already: leave it out"
            )
        return trace
    folding = folding_of(choice.name, shape[2], choice.grids[choice.name], sizes, grid)
    return trace if folding is None else FoldedTrace(trace, folding)


def _check_grid(name: str, shape: tuple[int | None, ...]) -> None:
    if len(shape) < 3:
        raise LayerError(
            f"layer {name!r} makes {shape}: a map needs a layer with a grid; `gradcam layers` "
            "lists them"
        )
