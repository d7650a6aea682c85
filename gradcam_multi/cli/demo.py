"""``gradcam demo``: two networks that are right equally often, for different reasons."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import click
import numpy as np
from PIL import Image

from gradcam_multi.cli.main import make_folder
from gradcam_multi.demo import (
    VALIDATION_SEED,
    NetworkName,
    draw_scenes,
    load_examples,
    load_network,
)
from gradcam_multi.demo.measure import Figures, as_inputs, measure
from gradcam_multi.errors import MissingExtraError
from gradcam_multi.explainer import CamWarning, Explainer
from gradcam_multi.gallery import picture_row
from gradcam_multi.panel import panel
from gradcam_multi.plugins import installed

Marks = Literal["none", "label", "random"]
NETWORKS: tuple[NetworkName, ...] = get_args(NetworkName)
# The marks in a network's own validation scenes: as in those that it was trained on.
OWN: dict[NetworkName, Marks] = {"sound": "random", "shortcut": "label"}
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
        name: Explainer(model, backend=backend, labels=load_network(name).classes)
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


def _arrange(explainer: Explainer, inputs: np.ndarray) -> np.ndarray:
    last = any(spec.layout == "channels_last" for spec in explainer.model.inputs)
    return np.moveaxis(inputs, 1, -1) if last else inputs


def _measure(
    explainers: dict[NetworkName, Explainer], count: int
) -> dict[NetworkName, dict[str, float]]:
    from tqdm import tqdm

    figures: dict[NetworkName, dict[str, float]] = {}
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=5 * count, unit="scene", leave=False, disable=None) as bar:
        drawn: dict[Marks, Any] = {
            marks: draw_scenes(count, seed=VALIDATION_SEED, marks=marks)
            for marks in ("random", "label", "none")
        }
        for name, explainer in explainers.items():

            def run(marks: Marks, explainer: Explainer = explainer) -> Figures:
                return measure(
                    explainer,
                    drawn[marks],
                    arrange=lambda inputs: _arrange(explainer, inputs),
                    advance=bar.update,
                )

            marked = run("label")
            own = marked if OWN[name] == "label" else run(OWN[name])
            figures[name] = {
                "own": own.accuracy,
                "peak": marked.peak_on_object,
                "without": run("none").accuracy,
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
    for index, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(output / "scenes" / f"scene{index}.png")
        title = load_network("sound").classes[scene.label]
        ranked = [explanation[index] for explanation in explained.values()]
        prefixes = [f"{name}: " for name in explained]
        rows.append(picture_row(scene.image, ranked, title=title, prefixes=prefixes))
    panel(rows[:4], height=192).save(output / "demo.png")


def _write(
    models: dict[NetworkName, tuple[Any, str]],
    figures: dict[NetworkName, dict[str, float]],
    scenes: int,
    output: Path,
) -> None:
    classes: Sequence[str] = load_network("sound").classes
    (output / "labels.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    for name, (model, _) in models.items():
        if isinstance(model, bytes):  # a model that is a file, as ONNX models are
            (output / f"{name}.onnx").write_bytes(model)
    record = {"scenes": scenes, "figures": figures}
    (output / "figures.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _print(
    figures: dict[NetworkName, dict[str, float]], scenes: int, backend: str, output: Path
) -> None:
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
