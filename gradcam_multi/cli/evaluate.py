"""``gradcam evaluate``: methods held against each other on pictures, in a table and a chart."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gradcam_multi.cli.main import (
    class_or_name,
    grid_option,
    labels_option,
    layer_option,
    make_folder,
    preprocess_option,
)
from gradcam_multi.cli.models import model_options, open_model
from gradcam_multi.errors import ImageError
from gradcam_multi.geometry import Geometry
from gradcam_multi.images import find_images, load_image
from gradcam_multi.labels import read_labels
from gradcam_multi.metrics import Evaluator, Options
from gradcam_multi.picture_input import PictureInput
from gradcam_multi.preprocess import Preprocess
from gradcam_multi.spec import Array

BATCH = 8  # pictures at a time: memory stays flat
REPORT, CHART = "evaluation.json", "evaluation.png"


@dataclass(frozen=True)
class Picture:
    """One picture as the model takes it, and its mask there, (h, w) bool."""

    path: Path
    array: Array
    mask: NDArray[np.bool_] | None


def _names(_: Any, __: Any, value: str | None) -> tuple[str, ...] | None:
    """Read a,b,c."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else None


def _baseline(_: Any, __: Any, value: str | None) -> str | float | None:
    """Read a baseline's name, or a number."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


@click.command("evaluate")
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--methods",
    callback=_names,
    metavar="A,B,...",
    help="CAM methods; `gradcam methods` lists them.  [default: all of cost 1]",
)
@click.option(
    "--metrics",
    callback=_names,
    metavar="A,B,...",
    help="What is measured.  [default: average-drop, increase, deletion, insertion; with masks "
    "pointing-game and energy too]",
)
@click.option(
    "--masks",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder with a PNG for each picture, of its name and size, light where the object is.",
)
@click.option(
    "--target",
    callback=class_or_name,
    metavar="N|NAME",
    help="Class to explain.  [default: the top class of each picture]",
)
@layer_option
@grid_option
@labels_option
@preprocess_option
@click.option(
    "--steps", default=Options.steps, show_default=True, help="Of deletion and insertion."
)
@click.option(
    "--baseline",
    callback=_baseline,
    metavar="blur|mean|NUMBER",
    help="What replaces pixels.  [default: each metric's own]",
)
@click.option(
    "--tolerance",
    default=Options.tolerance,
    show_default=True,
    help="Of the pointing game, in pixels of the model's input.",
)
@click.option(
    "--threshold",
    default=Options.threshold,
    show_default=True,
    help="Of iou, as a share of a heatmap's largest value.",
)
@click.option("--seed", default=Options.seed, show_default=True, help="Of all that is drawn.")
@click.option(
    "--output",
    "-o",
    default="gradcam-evaluation",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help=f"Folder for {REPORT} and {CHART}.",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    model: str,
    images: tuple[str, ...],
    methods: tuple[str, ...] | None,
    metrics: tuple[str, ...] | None,
    masks: Path | None,
    target: int | str | None,
    layer: str | None,
    grid: tuple[int, ...] | None,
    labels: str | None,
    preprocess: str,
    steps: int,
    baseline: Any,
    tolerance: float,
    threshold: float,
    seed: int,
    output: Path,
    backend: str | None,
    weights: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Measure how well each method explains MODEL on each IMAGE (files, folders, patterns).

    Prints the mean of each metric for each method, with maps drawn by lot as the baseline that any
    method has to beat. Exit code 1 where some pictures could not be read, 2 where none could.
    """
    paths = find_images(images)
    if masks is not None and not masks.is_dir():
        raise ImageError(f"no folder {str(masks)!r} for --masks: give one with a PNG a picture")
    prepare = Preprocess.named(preprocess)
    evaluator = Evaluator(
        open_model(model, weights, trust),
        methods=methods,
        metrics=metrics,
        masks=masks is not None,
        options=Options(
            steps=steps, baseline=baseline, tolerance=tolerance, threshold=threshold, seed=seed
        ),
        layer=layer,
        backend=backend,
        labels=read_labels(labels) if labels else None,
        trust=trust,
        grid=grid,
    )
    make_folder(output)
    takes = PictureInput.of(next(iter(evaluator.explainers.values())).model, model)
    skipped: list[str] = []
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(total=len(paths) * evaluator.rows, unit="map", leave=False, disable=None) as bar:
        pictures = _read(paths, prepare, takes, masks, skipped)
        while batch := list(islice(pictures, BATCH)):
            found = [picture.mask for picture in batch if picture.mask is not None]

            def tick(count: int = len(batch)) -> None:
                bar.update(count)

            evaluator.add(
                np.stack([picture.array for picture in batch]),
                [str(picture.path) for picture in batch],
                masks=np.stack(found) if found else None,
                target=target,
                tick=tick,
            )
    for message in skipped:
        click.echo(f"gradcam: {message}", err=True)
    if len(skipped) == len(paths):
        sys.exit(2)
    evaluation = evaluator.result(skipped)
    click.echo(evaluation.to_json().rstrip() if as_json else str(evaluation))
    evaluation.save(output / REPORT)
    evaluation.to_pil(title=f"{Path(model).name}, {len(evaluation)} pictures").save(output / CHART)
    click.echo(f"wrote {output / REPORT} and {output / CHART}", err=as_json)
    if skipped:
        sys.exit(1)


def _read(
    paths: Sequence[Path],
    prepare: Preprocess,
    takes: PictureInput,
    masks: Path | None,
    skipped: list[str],
) -> Iterator[Picture]:
    """Read pictures one by one; why one cannot be used is added to `skipped`, the others go on."""
    for path in paths:
        try:
            image = load_image(path)
            array, geometry = takes.apply(prepare, image)
            size = array.shape[:2] if takes.layout == "channels_last" else array.shape[1:]
            mask = None if masks is None else _mask(masks, path, image.shape[:2])
        except ImageError as error:
            skipped.append(str(error))
            continue
        yield Picture(path, array, None if mask is None else mask_on(mask, geometry, size))


def _mask(folder: Path, path: Path, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Read the mask of a picture: PNG, the same stem, the same size."""
    file = folder / f"{path.stem}.png"
    if not file.exists():
        raise ImageError(f"{str(path)!r} has no mask {str(file)!r}: draw one, or leave it out")
    mask = load_image(file)
    if mask.shape[:2] != size:
        raise ImageError(
            f"{str(file)!r} is {mask.shape[1]} x {mask.shape[0]} pixels, its picture {size[1]} x "
            f"{size[0]}: give a mask of the picture's size"
        )
    light: NDArray[np.bool_] = mask.max(-1) > 127
    return light


def mask_on(
    mask: NDArray[np.bool_], geometry: Geometry, size: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return a picture's mask at the centres of the (h, w) pixels of a model's input."""
    top, left, bottom, right = geometry.box
    ends = ((top, bottom), (left, right))
    rows, columns = (
        np.clip(
            np.floor(low + (np.arange(n) + 0.5) * (high - low) / n).astype(np.intp), 0, extent - 1
        )
        for n, (low, high), extent in zip(size, ends, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
