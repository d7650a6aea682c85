"""The two demonstration networks as arrays, from which every framework builds the same model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.demo.backdrops import SIDE
from gradcam_multi.demo.scenes import CLASSES

NetworkName = Literal["sound", "shortcut"]
LayerKind = Literal["conv", "relu", "maxpool", "gap", "dense", "softmax"]


@dataclass(frozen=True)
class DemoLayer:
    """One layer, fed by the layer before it.

    `conv` is 3x3, stride 1, zero padding 1, with bias; `maxpool` is 2x2, stride 2; `gap` is the
    mean over space, `(N, C, H, W)` to `(N, C)`; `dense` gives the logits;
    `softmax`, over classes, may follow it.
    """

    name: str
    kind: LayerKind


@dataclass(frozen=True, eq=False)
class DemoNetwork:
    """Layers in order, and the weights of those that have any.

    A `conv` has `<name>.weight` `(out, in, 3, 3)` and `<name>.bias` `(out,)`, the `dense` has
    `<name>.weight` `(classes, features)` and `<name>.bias` `(classes,)`; all float32. The input is
    `(N, 3, *input_size)`, RGB, and `preprocess` names the preset that scales it: `unit` divides
    by 255.
    """

    name: str
    classes: tuple[str, ...]
    input_size: tuple[int, int]
    preprocess: str
    layers: tuple[DemoLayer, ...]
    weights: Mapping[str, NDArray[np.float32]]


LAYERS: tuple[DemoLayer, ...] = (
    DemoLayer("conv1", "conv"),
    DemoLayer("relu1", "relu"),
    DemoLayer("pool1", "maxpool"),
    DemoLayer("conv2", "conv"),
    DemoLayer("relu2", "relu"),
    DemoLayer("pool2", "maxpool"),
    DemoLayer("conv3", "conv"),
    DemoLayer("relu3", "relu"),
    DemoLayer("pool3", "maxpool"),
    DemoLayer("conv4", "conv"),
    DemoLayer("relu4", "relu"),
    DemoLayer("conv5", "conv"),
    DemoLayer("relu5", "relu"),
    DemoLayer("gap", "gap"),
    DemoLayer("logits", "dense"),
)
"""Both networks have these; `relu5` is the final feature map, `(N, 64, 12, 12)`."""


def load_network(name: NetworkName) -> DemoNetwork:
    """Read one network from the package: `sound` learned the objects, `shortcut` the corner marks.

    Raises:
        ValueError: there is no network of this name.
    """
    if name not in get_args(NetworkName):
        known = " and ".join(get_args(NetworkName))
        raise ValueError(f"network {name!r} was asked for; the package has {known}")
    file = resources.files("gradcam_multi.demo") / "data" / f"{name}.npz"
    with file.open("rb") as stream, np.load(stream) as arrays:
        # Stored as float16 for size; every use and every measurement is of the rounded values.
        weights = {key: arrays[key].astype(np.float32) for key in arrays.files}
    return DemoNetwork(
        name=name,
        classes=CLASSES,
        input_size=(SIDE, SIDE),
        preprocess="unit",
        layers=LAYERS,
        weights=weights,
    )
