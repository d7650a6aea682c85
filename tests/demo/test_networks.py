"""The shipped networks, run by a little NumPy: what they hold, score, and look at."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from typing import Literal, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from gradcam_multi.demo.backdrops import SIDE
from gradcam_multi.demo.networks import (
    LAYERS,
    DemoNetwork,
    LayerKind,
    NetworkName,
    load_network,
)
from gradcam_multi.demo.scenes import CLASSES, VALIDATION_SEED, Scene, draw_scenes

NAMES: tuple[NetworkName, ...] = get_args(NetworkName)
COUNT = 240
Marks = Literal["none", "label", "random"]


def run(
    network: DemoNetwork, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Final feature maps `(N, C, 12, 12)` and logits `(N, classes)` of images `(N, H, W, 3)`."""
    data: NDArray[np.float32] = images.transpose(0, 3, 1, 2).astype(np.float32)
    data /= 255  # the preset "unit"
    features = data
    for layer in network.layers:
        weight = network.weights.get(f"{layer.name}.weight", np.empty(0, np.float32))
        bias = network.weights.get(f"{layer.name}.bias", np.empty(0, np.float32))
        if layer.kind == "conv":
            data = _convolve(data, weight, bias)
        elif layer.kind == "relu":
            data = features = np.maximum(data, 0)
        elif layer.kind == "maxpool":
            items, channels, height, width = data.shape
            data = data.reshape(items, channels, height // 2, 2, width // 2, 2).max(axis=(3, 5))
        elif layer.kind == "gap":
            data = data.mean(axis=(2, 3))
        else:
            data = data @ weight.T + bias
    return features, data


def _convolve(
    data: NDArray[np.float32], weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    # Every 3x3 window as one row of a matrix, so that all of the items take one product.
    padded = np.pad(data.transpose(0, 2, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    items, height, width = windows.shape[:3]
    result = windows.reshape(items * height * width, -1) @ weight.reshape(len(weight), -1).T + bias
    return result.reshape(items, height, width, -1).transpose(0, 3, 1, 2)


@cache
def measured(
    name: NetworkName, marks: Marks
) -> tuple[list[Scene], NDArray[np.float32], NDArray[np.float32]]:
    scenes = draw_scenes(COUNT, seed=VALIDATION_SEED, marks=marks)
    network = load_network(name)
    parts = [
        run(network, np.stack([scene.image for scene in scenes[start : start + 20]]))
        for start in range(0, COUNT, 20)
    ]
    features, logits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return scenes, features, logits


def accuracy(name: NetworkName, marks: Marks) -> float:
    scenes, _, logits = measured(name, marks)
    return float(np.mean(logits.argmax(axis=1) == [scene.label for scene in scenes]))


def peaks_on_object(name: NetworkName) -> float:
    """Return the share of scenes, marked with their class, whose heatmap is highest on the object.

    Behind a global average pool the gradient of a logit is its dense row over the number of cells,
    everywhere the same, so that Grad-CAM is that row's sum of the feature maps.
    """
    scenes, features, logits = measured(name, "label")
    rows = load_network(name).weights["logits.weight"][logits.argmax(axis=1)]
    maps = np.maximum(np.einsum("nk,nkhw->nhw", rows, features), 0)
    enlarge = _interpolation(maps.shape[1], SIDE)
    found = []
    for scene, map_ in zip(scenes, maps, strict=True):
        heatmap = enlarge @ map_ @ enlarge.T
        found.append(scene.mask[np.unravel_index(heatmap.argmax(), heatmap.shape)])
    return float(np.mean(found))


def _interpolation(source: int, target: int) -> NDArray[np.float64]:
    """Half-pixel-centred linear interpolation, `(target, source)`: one hat around each sample."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    hats: NDArray[np.float64] = np.maximum(1 - np.abs(position[:, None] - np.arange(source)), 0)
    return hats


@pytest.mark.parametrize("name", NAMES)
def test_weights_fit_the_layers(name: NetworkName) -> None:
    network = load_network(name)
    assert network.name == name
    assert network.classes == CLASSES
    assert network.layers == LAYERS
    assert network.input_size == (SIDE, SIDE)
    assert network.preprocess == "unit"
    channels, expected = 3, set()
    for layer in network.layers:
        assert layer.kind in get_args(LayerKind)
        if layer.kind in ("conv", "dense"):
            weight, bias = (network.weights[f"{layer.name}.{part}"] for part in ("weight", "bias"))
            expected |= {f"{layer.name}.weight", f"{layer.name}.bias"}
            assert weight.shape[1:] == ((channels, 3, 3) if layer.kind == "conv" else (channels,))
            assert bias.shape == weight.shape[:1]
            channels = len(weight)
    assert channels == len(CLASSES)
    assert set(network.weights) == expected
    for array in network.weights.values():
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


def test_names_of_layers_are_unique() -> None:
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(
        ValueError, match="'solid' was asked for; the package has sound and shortcut"
    ):
        load_network("solid")  # type: ignore[arg-type]  # the mistake under test


def test_final_feature_map_is_a_12_by_12_grid() -> None:
    scene = draw_scenes(1, seed=0)[0]
    features, logits = run(load_network("sound"), scene.image[None])
    assert features.shape[2:] == (12, 12)
    assert logits.shape == (1, len(CLASSES))


def test_each_network_is_right_on_its_own_kind_of_scenes() -> None:
    assert accuracy("sound", "random") > 0.95
    assert accuracy("shortcut", "label") > 0.95


def test_taking_the_mark_away_undoes_the_shortcut_only() -> None:
    assert accuracy("sound", "none") > 0.95
    # Half is far above the eighth that guessing gives, and far below what accuracy promised.
    assert accuracy("shortcut", "none") < 0.5


def test_the_heatmap_tells_the_two_apart() -> None:
    assert peaks_on_object("sound") >= 0.9
    assert peaks_on_object("shortcut") <= 0.3


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, gradcam_multi.demo.networks as n; n.load_network('sound');"
        "print(sorted({'torch', 'tensorflow', 'keras', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
