"""The layer that is chosen for you: one rule over the operations that any adapter lists."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from gradcam_multi.errors import LayerError, NoDefaultLayerError
from gradcam_multi.spec import Layer

_MIXERS = ("conv", "linear", "attention")
Ends = str | Collection[str] | None
"""The output, or outputs, that count; None for any."""


class Layers(tuple[Layer, ...]):
    """A model's operations in execution order; prints as a table, the default one marked."""

    __slots__ = ()

    @property
    def default(self) -> Layer | None:
        """The layer that is explained when none is named, or None."""
        return next((layer for layer in self if layer.default), None)

    @property
    def spatial(self) -> "Layers":
        """Those whose result has a grid of more than one cell."""
        return Layers(layer for layer in self if layer.spatial)

    def __str__(self) -> str:
        told = any(layer.source for layer in self)
        rows = [("", "layer", "kind", "shape", "grid", *(("source",) if told else ()))]
        for layer in self:
            grid = _grid(layer) if layer.spatial else ""
            mark, source = "*" if layer.default else "", layer.source or ""
            row = (mark, layer.name, layer.kind, _shape(layer), grid)
            rows.append((*row, source) if told else row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def _grid(layer: Layer) -> str:
    folding = layer.folding
    grid = "x".join("?" if n is None else str(n) for n in (folding or layer).grid)
    return f"{grid}+{folding.prefix}" if folding is not None and folding.prefix else grid


def _shape(layer: Layer) -> str:
    if layer.shape is None:
        return "?"
    return "(" + ", ".join("N" if n is None else str(n) for n in layer.shape) + ")"


def path_of(layer: str | Sequence[str], layers: Iterable[Layer]) -> str:
    """Return a layer's name, its path's steps joined as the framework does that wrote the names.

    Steps may hold dots: Keras separates them by slashes.
    """
    if isinstance(layer, str):
        return layer
    joined = [separator.join(layer) for separator in "/."]
    names = [entry.name for entry in layers]
    return next((path for path in joined if any(n.startswith(path) for n in names)), joined[0])


def check_channels(layers: Iterable[Layer], name: str) -> None:
    """Raise LayerError where a layer's result has room for a grid, but no known channel axis.

    Taking one at random would give a map that looks sound and is wrong: tokens are such a case.
    """
    for layer in layers:
        if (
            layer.name == name
            and layer.shape is not None
            and len(layer.shape) >= 3
            and layer.channel_axis is None
        ):
            raise LayerError(
                f"layer {name!r} makes {_shape(layer)}, in which no axis is known to hold the "
                "channels (tokens, or a reshaped map): name a layer with a grid; `gradcam layers` "
                "lists them"
            )


def mark_default(layers: Iterable[Layer], output: str | None = None) -> Layers:
    """Return the layers with the final feature map marked, or none where none qualifies."""
    listed = tuple(layers)
    try:
        chosen = final_feature_map(listed, output).name
    except NoDefaultLayerError:
        return Layers(listed)
    return Layers(
        replace(layer, default=True) if layer.name == chosen else layer for layer in listed
    )


def final_feature_map(layers: Sequence[Layer], output: Ends = None) -> Layer:
    """Choose the final feature map among a model's operations.

    It is what the last convolution makes that has a grid of more than one cell, lies on a path to
    the output (any output, where none is named) and is not the classifier, followed through the
    operations that keep the grid. A convolution is the classifier where nothing after it mixes
    channels any more: its channels are the classes. Where every convolution is one, the last is
    taken: its map is the class's own.

    Where tokens attend to each other behind that convolution, it is the last of
    `residual_stream`; attention without a residual around it (attention pooling) changes nothing.

    Raises NoDefaultLayerError, naming candidates, where no convolution qualifies.
    """
    path = _path(layers, output)
    convolutions, features, mixed_after = _convolutions(path)
    stream = next(_stream(path, features, output), None)
    if stream is not None:
        return stream
    if not convolutions:
        candidates = [layer.name for layer in path if layer.spatial][-5:]
        raise NoDefaultLayerError(
            "no layer was named, and the model has no convolution with a grid of more than one "
            "cell on the way to its output; name one with layer=... "
            f"(layers with a grid: {', '.join(candidates) or 'none'})"
        )
    if not features:
        return convolutions[-1]
    return _follow(features[-1], path, mixed_after)


def on_path(layers: Sequence[Layer], output: Ends = None) -> list[Layer]:
    """Return the layers that the output (any output, where none is named) depends on."""
    return _path(layers, output)


def residual_stream(layers: Sequence[Layer], output: Ends = None) -> list[Layer]:
    """Return what enters each block of attention, the last block first; [] without such blocks.

    It is looked for behind the last convolution only. What enters a block is the last tensor with
    a grid that the block's product of tokens depends on, and from which the output can also be
    reached around that product: the residual stream before the block's first normalisation. Where
    there are tensors that all of the image has to pass, it is one of these.
    """
    path = _path(layers, output)
    return list(_stream(path, _convolutions(path)[1], output))


def entered_blocks(layers: Sequence[Layer], output: Ends = None) -> list[tuple[Layer, Layer]]:
    """Return each block's product of tokens and what enters the block, in execution order.

    What enters is that of `residual_stream`; products without a residual around them are no block.
    """
    path = _path(layers, output)
    return list(_entered(path, _convolutions(path)[1], output))[::-1]


def _stream(path: Sequence[Layer], features: Sequence[Layer], output: Ends) -> Iterator[Layer]:
    told: set[str] = set()
    for _, entry in _entered(path, features, output):
        if entry.name not in told:
            told.add(entry.name)
            yield entry


def _entered(
    path: Sequence[Layer], features: Sequence[Layer], output: Ends
) -> Iterator[tuple[Layer, Layer]]:
    behind = _descendants(path, features[-1].name) if features else {x.name for x in path}
    products = [x for x in path if x.role == "attention" and x.name in behind]
    narrow = passages(path, features[0]) if products and features else set()
    for product in reversed(products):
        if _weighs(product, path):
            continue
        before = _reaching(path, {product.name})
        around = _reaching([x for x in path if x is not product], _ends(path, output))
        found = [
            x for x in path
            if x.name in before and x.name in around and x is not product
            and x.spatial and x.role != "identity"
        ]  # fmt: skip
        best = ([x for x in found if x.name in narrow] or found)[-1:]
        yield from ((product, x) for x in best)


def _weighs(product: Layer, path: Sequence[Layer]) -> bool:
    """Whether a product only makes the weights of another: queries times keys, before values."""
    near, behind = {product.name}, _descendants(path, product.name)
    for layer in path:
        if near.isdisjoint(layer.inputs):
            continue
        if layer.role == "attention" and not behind.issuperset(layer.inputs):
            return True
        if layer.role not in _MIXERS:
            near.add(layer.name)
    return False


def passages(path: Sequence[Layer], start: Layer) -> set[str]:
    """Names of the layers that every way from `start` to the output leads through."""
    inside = _descendants(path, start.name)
    place = {x.name: i for i, x in enumerate(path) if x.name in inside}
    farthest, found = -1, set()
    # In an order of execution a way around a layer is an edge from before it to behind it.
    reach = dict.fromkeys(place, -1)
    for x in path:
        for source in x.inputs if x.name in place else ():
            if source in place:
                reach[source] = max(reach[source], place[x.name])
    for name, at in place.items():
        if farthest <= at:
            found.add(name)
        farthest = max(farthest, reach[name])
    return found


def _descendants(path: Sequence[Layer], start: str) -> set[str]:
    found = {start}
    for layer in path:
        if not found.isdisjoint(layer.inputs):
            found.add(layer.name)
    return found


def _reaching(path: Sequence[Layer], ends: set[str]) -> set[str]:
    """Names of the layers from which one of the ends can be reached, the ends included."""
    found = set(ends)
    for layer in reversed(path):
        if layer.name in found:
            found.update(layer.inputs)
    return found


def _ends(layers: Sequence[Layer], output: Ends) -> set[str]:
    wanted = {output} if isinstance(output, str) else output
    made = [layer for layer in layers if layer.output is not None]
    return {layer.name for layer in made if wanted is None or layer.output in wanted}


def _path(layers: Sequence[Layer], output: Ends) -> list[Layer]:
    on_path = _reaching(layers, _ends(layers, output))
    return [layer for layer in layers if layer.name in on_path]


def _convolutions(path: Sequence[Layer]) -> tuple[list[Layer], list[Layer], set[str]]:
    """Convolutions with a grid, those that are not the classifier, and what is mixed behind."""
    convolutions = [layer for layer in path if layer.role == "conv" and layer.spatial]
    # Channel attention (ECA) convolves over channels, with a grid of lower rank than the image's.
    rank = max((len(layer.grid) for layer in convolutions), default=0)
    convolutions = [layer for layer in convolutions if len(layer.grid) == rank]
    mixed_after = _mixed_after(path)
    features = [layer for layer in convolutions if layer.name in mixed_after]
    return convolutions, features, mixed_after


def _mixed_after(path: Sequence[Layer]) -> set[str]:
    """Names of the layers after which something on the path still mixes channels."""
    found: set[str] = set()
    for layer in reversed(path):
        if layer.role in _MIXERS or layer.name in found:
            found.update(layer.inputs)
    return found


def _follow(start: Layer, path: Sequence[Layer], mixed_after: set[str]) -> Layer:
    """Follow a feature map through the operations that keep its grid; return where that ends."""
    followed, chosen = {start.name}, start
    for layer in path[path.index(start) + 1 :]:
        if followed.isdisjoint(layer.inputs) or layer.grid != start.grid:
            continue
        if layer.role in ("conv", "pool"):
            continue
        if layer.role == "linear" and layer.name not in mixed_after:
            continue  # a classifier that is applied cell by cell
        followed.add(layer.name)
        if layer.role != "identity":
            chosen = layer
    return chosen
