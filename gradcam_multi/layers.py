"""The layer that is chosen for you: one rule over the operations that any adapter lists."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gradcam_multi.errors import LayerError, NoDefaultLayerError
from gradcam_multi.spec import Layer


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
            grid = (
                "x".join("?" if n is None else str(n) for n in layer.grid) if layer.spatial else ""
            )
            mark, source = "*" if layer.default else "", layer.source or ""
            row = (mark, layer.name, layer.kind, _shape(layer), grid)
            rows.append((*row, source) if told else row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def _shape(layer: Layer) -> str:
    if layer.shape is None:
        return "?"
    return "(" + ", ".join("N" if n is None else str(n) for n in layer.shape) + ")"


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


def final_feature_map(layers: Sequence[Layer], output: str | None = None) -> Layer:
    """Choose the final feature map among a model's operations.

    It is what the last convolution makes that has a grid of more than one cell, lies on a path to
    the output (any output, where none is named) and is not the classifier, followed through the
    operations that keep the grid. A convolution is the classifier where nothing after it mixes
    channels any more: its channels are the classes. Where every convolution is one, the last is
    taken: its map is the class's own.

    Raises NoDefaultLayerError, naming candidates, where no convolution qualifies.
    """
    on_path = _ancestors(layers, output)
    path = [layer for layer in layers if layer.name in on_path]
    convolutions = [layer for layer in path if layer.role == "conv" and layer.spatial]
    if not convolutions:
        candidates = [layer.name for layer in path if layer.spatial][-5:]
        raise NoDefaultLayerError(
            "no layer was named, and the model has no convolution with a grid of more than one "
            "cell on the way to its output; name one with layer=... "
            f"(layers with a grid: {', '.join(candidates) or 'none'})"
        )
    # Channel attention (ECA) convolves over channels, with a grid of lower rank than the image's.
    rank = max(len(layer.grid) for layer in convolutions)
    convolutions = [layer for layer in convolutions if len(layer.grid) == rank]
    mixed_after = _mixed_after(path)
    features = [layer for layer in convolutions if layer.name in mixed_after]
    if not features:
        return convolutions[-1]
    return _follow(features[-1], path, mixed_after)


def _ancestors(layers: Sequence[Layer], output: str | None) -> set[str]:
    """Names of the layers from which the output can be reached, the output's own included."""
    found: set[str] = set()
    for layer in reversed(layers):
        makes = layer.output is not None and output in (None, layer.output)
        if makes or layer.name in found:
            found.add(layer.name)
            found.update(layer.inputs)
    return found


def _mixed_after(path: Sequence[Layer]) -> set[str]:
    """Names of the layers after which something on the path still mixes channels."""
    found: set[str] = set()
    for layer in reversed(path):
        if layer.role in ("conv", "linear") or layer.name in found:
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
