"""``gradcam demo``: two networks that are right equally often, for different reasons."""

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gradcam_multi.cli.main import make_folder
from gradcam_multi.demo import (
    CLASSES,
    VALIDATION_SEED,
    NetworkName,
    Scene,
    as_inputs,
    draw_scenes,
    load_examples,
    load_network,
)
from gradcam_multi.errors import MissingExtraError
from gradcam_multi.explainer import CamWarning, Explainer
from gradcam_multi.gallery import picture_row
from gradcam_multi.panel import panel
from gradcam_multi.plugins import installed

Marks = Literal["none", "label", "random"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
# The marks in a network's own validation scenes: as in those that it was trained on.
OWN: dict[NetworkName, Marks] = {"sound": "random", "shortcut": "label"}
BATCH = 32
Figures = dict[NetworkName, dict[str, float]]
"""For each network the share of scenes that each row of the table speaks of."""

ROWS = {
    "own": "accuracy on its own validation scenes",
    "peak": "heatmap's peak on the object, same scenes",
    "without": "accuracy with the mark taken away",
}


@click.command("demo")
@click.option(
    "--output",
    "-o",
    default="gradcam-demo",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the pictures.",
)
@click.option(
    "--backend", metavar="NAME", help="onnx, torch or tensorflow.  [default: the first installed]"
)
@click.option(
    "--scenes", default=400, show_default=True, type=click.IntRange(1), help="Scenes to measure on."
)
def command(output: Path, backend: str | None, scenes: int) -> None:
    """Explain two small networks, one of which cheats, and show how to tell.

    Both tell eight kinds of objects in drawn scenes. `sound` learned the objects; `shortcut` was
    trained where a small mark in a corner went with the object, and learned the mark.
    """
    make_folder(output)
    models = _build(backend)
    explainers = {
        name: Explainer(model, backend=backend, labels=CLASSES)
        for name, (model, backend) in models.items()
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)  # a blank map misses the object, and counts so
        figures = _measure(explainers, scenes)
        _draw(explainers, output)
    _write(models, figures, scenes, output)
    _print(figures, scenes, explainers["sound"].model.backend, output)


def _build(backend: str | None) -> dict[NetworkName, tuple[Any, str]]:
    """Build both networks with the named adapter, or with the first whose framework is there."""
    plugins = installed()
    for name in [backend] if backend else plugins.names:
        try:
            return {net: (plugins.build(load_network(net), name), name) for net in NETWORKS}
        except MissingExtraError:
            if backend:
                raise
    raise MissingExtraError(
        "gradcam demo needs one framework, and none is installed: "
        'pip install "gradcam-multi[onnx]" is the smallest'
    )


def _arrange(explainer: Explainer, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn (N, 3, H, W) into the layout that the model takes."""
    last = any(spec.layout == "channels_last" for spec in explainer.model.inputs)
    return np.moveaxis(inputs, 1, -1) if last else inputs


def _count(
    explainer: Explainer, scenes: Sequence[Scene], advance: Callable[[int], object]
) -> tuple[float, float]:
    """Explain each scene's top class; return the share that is right, and the share whose
    heatmap has its peak on the object: the pointing game (Zhang 2016, arXiv:1608.00507).
    """
    right = hit = 0
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        explanation = explainer(_arrange(explainer, as_inputs(part)))
        for c, heatmap, scene in zip(explanation.classes, explanation.heatmap, part, strict=True):
            right += c == scene.label
            hit += bool(scene.mask.flat[heatmap.argmax()])
        advance(len(part))
    return right / len(scenes), hit / len(scenes)


def _measure(explainers: dict[NetworkName, Explainer], count: int) -> Figures:
    from tqdm import tqdm

    # Drawn in three ways, then explained in three ways by one network and in two by the other.
    total = 8 * count
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=total, unit="scene", leave=False, disable=None) as bar:
        drawn: dict[Marks, list[Scene]] = {"random": [], "label": [], "none": []}
        for marks, scenes in drawn.items():
            for start in range(0, count, BATCH):
                part = min(BATCH, count - start)
                scenes += draw_scenes(part, seed=VALIDATION_SEED, marks=marks, start=start)
                bar.update(part)
        figures: Figures = {}
        for name, explainer in explainers.items():
            shares = {
                marks: _count(explainer, drawn[marks], bar.update)
                for marks in dict.fromkeys(("label", "none", OWN[name]))
            }
            figures[name] = {
                "own": shares[OWN[name]][0],
                "peak": shares["label"][1],
                "without": shares["none"][0],
            }
    return figures


def _draw(explainers: dict[NetworkName, Explainer], output: Path) -> None:
    """Write the example scenes, and one panel: scene, sound's heatmap, shortcut's heatmap."""
    scenes = load_examples()
    (output / "scenes").mkdir(exist_ok=True)
    rows = []
    explained = {
        name: explainer(_arrange(explainer, as_inputs(scenes)))
        for name, explainer in explainers.items()
    }
    prefixes = [f"{name}: " for name in explained]
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(output / "scenes" / f"scene{index}.png")
        ranked = [explanation[index] for explanation in explained.values()]
        title = CLASSES[scene.label]
        rows.append(picture_row(scene.image, ranked, title=title, prefixes=prefixes))
    panel(rows[:4], height=192).save(output / "demo.png")


def _write(
    models: dict[NetworkName, tuple[Any, str]],
    figures: Figures,
    scenes: int,
    output: Path,
) -> None:
    (output / "labels.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for name, (model, _) in models.items():
        if isinstance(model, bytes):  # a model that is a file, as ONNX models are
            (output / f"{name}.onnx").write_bytes(model)
    record = {"scenes": scenes, "figures": figures}
    (output / "figures.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _print(figures: Figures, scenes: int, backend: str, output: Path) -> None:
    width = max(map(len, ROWS.values()))
    click.echo(
        f"{f'{scenes} scenes, {backend}':{width}}  " + "  ".join(f"{n:>8}" for n in NETWORKS)
    )
    for key, text in ROWS.items():
        cells = "  ".join(f"{100 * figures[name][key]:>6.1f} %" for name in NETWORKS)
        click.echo(f"{text:{width}}  {cells}")
    click.echo(f"\nwrote {output / 'demo.png'}: look at it")
    if (output / "shortcut.onnx").exists():
        click.echo(
            f"next: gradcam explain {output / 'shortcut.onnx'} {output / 'scenes'} "
            f"--preprocess unit --labels {output / 'labels.txt'}"
        )
