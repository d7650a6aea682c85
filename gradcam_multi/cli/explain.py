"""``gradcam explain``: pictures in, panels and a table out."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gradcam_multi.cam import method_named
from gradcam_multi.cli.main import (
    class_or_name,
    grid_option,
    labels_option,
    make_folder,
    method_option,
    preprocess_option,
)
from gradcam_multi.cli.models import model_options, open_model
from gradcam_multi.cli.scores import asked_target, output_option, score_options
from gradcam_multi.errors import ImageError, InputError, PreprocessError
from gradcam_multi.explainer import CamWarning, Explainer
from gradcam_multi.explanation import STATUS_NOTES, Explanation
from gradcam_multi.fusion import Fuse
from gradcam_multi.gallery import picture_row
from gradcam_multi.geometry import Geometry
from gradcam_multi.images import find_images, load_image
from gradcam_multi.labels import read_labels
from gradcam_multi.page.pictures import PicturePage
from gradcam_multi.panel import panel
from gradcam_multi.preprocess import Preprocess
from gradcam_multi.smoothing import Smooth
from gradcam_multi.spec import TensorSpec
from gradcam_multi.targets import TopClass

BATCH = 8  # pictures at a time: memory stays flat, and the runtime has something to chew on
_SHARED = {"layer", "method", "backend", "version"}  # of all explanations of a run: said once
FEW = 4  # a progress bar for fewer pictures than this would be noise


@dataclass(frozen=True)
class Picture:
    """One picture on its way through: as read, as the model takes it, and where it came from."""

    path: Path
    image: NDArray[np.uint8]
    array: NDArray[np.float32]
    geometry: Geometry


@click.command("explain")
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--target",
    callback=class_or_name,
    metavar="N|NAME",
    help="Class to explain.  [default: the top class]",
)
@score_options
@click.option("--top", type=click.IntRange(1), metavar="K", help="Explain the K highest classes.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME",
    help="Layer to explain; several are fused.  [default: the final feature map]",
)
@click.option(
    "--fuse",
    type=click.Choice(get_args(Fuse)),
    default="mean",
    show_default=True,
    help="How the heatmaps of several layers become one.",
)
@click.option(
    "--smooth",
    type=click.Choice(get_args(Smooth)),
    help="Average over mirrored, noisy or resized pictures; or take a component (pca).",
)
@grid_option
@method_option
@click.option("--seed", default=0, show_default=True, help="Seed of methods that draw numbers.")
@click.option(
    "--samples",
    type=click.IntRange(1),
    metavar="N",
    help="Masks or noisy inputs of methods that draw them.  [default: the method's own number]",
)
@click.option(
    "--guided", is_flag=True, help="Keep positive gradients at positive activations only."
)
@labels_option
@preprocess_option
@click.option(
    "--output",
    "-o",
    default="gradcam",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the pictures.",
)
@output_option
@model_options
@click.option(
    "--html", is_flag=True, help="Also write report.html: all pictures on a page, by class."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead of a table.")
def command(
    model: str,
    images: tuple[str, ...],
    target: int | str | None,
    score: str,
    versus: int | str | None,
    top: int | None,
    layers: tuple[str, ...],
    fuse: Fuse,
    smooth: Smooth | None,
    grid: tuple[int, ...] | None,
    method: str,
    seed: int,
    samples: int | None,
    guided: bool,
    labels: str | None,
    preprocess: str,
    output: Path,
    model_output: str | None,
    backend: str | None,
    weights: str | None,
    trust: bool,
    html: bool,
    as_json: bool,
) -> None:
    """Show where MODEL looks in each IMAGE (files, folders or patterns).

    MODEL is a file, or package.module:function that builds a model, with --weights.

    Writes a panel for each picture and prints the classes with their probabilities. Exit code 1
    where some pictures could not be read, 2 where nothing could be done.
    """
    if target is not None and top is not None:
        raise click.UsageError("--target and --top exclude each other: give one")
    if top is not None and (score, versus) != ("logit", None):
        raise click.UsageError("--top ranks logits: leave out --score and --versus")
    targets = [asked_target(target, score, versus)]
    if top is not None:
        targets = [TopClass(rank) for rank in range(top)]
    paths = find_images(images)
    prepare = Preprocess.named(preprocess)
    names = read_labels(labels) if labels else None
    method_named(method)  # what is asked wrongly is said before a model is built
    explainer = Explainer(
        open_model(model, weights, trust),
        layer=layers[0] if len(layers) == 1 else layers or None,
        method=method,
        backend=backend,
        labels=names,
        guided=guided,
        trust=trust,
        grid=grid,
        output=model_output,
        seed=seed,
        samples=samples,
        fuse=fuse if len(layers) > 1 else None,
        smooth=smooth,
    )
    make_folder(output)

    ranked = (top, score, versus) == (None, "logit", None)
    page = PicturePage(output / "report.html", paths, ranked) if html else None
    records: list[dict[str, Any]] = []
    failed: list[str] = []
    written = _output_names(paths, output)
    # disable=None: no bar where stderr is not a terminal.
    quiet = None if len(paths) >= FEW else True
    with tqdm(total=len(paths), unit="picture", leave=False, disable=quiet) as bar:

        def skip(path: Path, message: str) -> None:
            failed.append(message)
            if page:
                page.fail(path, message)
            bar.update()

        spec = _input(explainer)
        pictures = _read(paths, prepare, spec, skip)
        for batch in _batches(pictures, 1 if spec.shape[0] == 1 else BATCH):
            arrays = np.stack([picture.array for picture in batch])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", CamWarning)  # said beside each picture instead
                explanations = explainer.several(arrays, targets)
                others = page.further(explainer, arrays, explanations) if page else []
            for index, picture in enumerate(batch):
                asked = [explanation[index] for explanation in explanations]
                file = written[picture.path]
                row = picture_row(picture.image, asked, picture.geometry, picture.path.name)
                panel([row]).save(file)
                records.append(_record(picture.path, file, asked))
                if page:
                    shown = [*asked, *(explanation[index] for explanation in others)]
                    page.add(picture.path, picture, shown)
                if not as_json:
                    bar.write(_lines(records[-1]))  # above the bar, not through it
                bar.update()
    if page and records:
        page.write(model, records[0])
    if as_json:
        click.echo(json.dumps(records, indent=2))
    for message in failed:
        click.echo(f"gradcam: {message}", err=True)
    if not as_json and records:
        click.echo(
            f"{len(records)} picture{'s' * (len(records) != 1)} in {output}: method {method}, "
            f"layer {records[0]['layer']}, preprocessing {preprocess}, {explainer.model.backend}"
        )
    if failed:
        sys.exit(1 if records else 2)


def _input(explainer: Explainer) -> TensorSpec:
    """The one input that takes pictures; of any size where only a run can tell."""
    if not explainer.model.inputs:
        return TensorSpec("input", (None, None, None, None), "float32")
    inputs = [spec for spec in explainer.model.inputs if len(spec.shape) == 4]
    if len(inputs) != 1 or len(explainer.model.inputs) != 1:
        shapes = ", ".join(f"{spec.name} {spec.shape}" for spec in explainer.model.inputs)
        raise InputError(
            f"pictures go into a model with one input (N, C, H, W) or (N, H, W, C); this one "
            f"takes {shapes or 'unknown inputs'}: use gradcam_multi.explain from Python"
        )
    return inputs[0]


def _read(
    paths: Sequence[Path], prepare: Preprocess, spec: TensorSpec, skip: Callable[[Path, str], None]
) -> Iterator[Picture]:
    """Read pictures one by one; a bad one is given to `skip`, and the others go on."""
    last = spec.layout == "channels_last"
    size = spec.shape[1:3] if last else spec.shape[2:4]
    for path in paths:
        try:
            image = load_image(path)
            array, geometry = prepare.apply(image, size=(size[0], size[1]), layout=spec.layout)
        except ImageError as error:
            skip(path, str(error))
            continue
        channels = spec.shape[-1 if last else 1]
        if channels not in (None, array.shape[-1 if last else 0]):
            raise PreprocessError(
                f"the preprocessing gives {len(prepare.channels)} channels, the model takes "
                f"{channels}: set 'channels' in a preprocessing file"
            )
        yield Picture(path, image, array, geometry)


def _batches(pictures: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    """Pictures in groups, in order; preprocessing has given all of them one shape."""
    while batch := list(islice(pictures, size)):
        yield batch


def _output_names(paths: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """A file in the folder for each picture; a number is added where two have one stem."""
    taken: set[str] = set()
    files = {}
    for path in paths:
        stem, number = path.stem, 1
        while stem in taken:
            number += 1
            stem = f"{path.stem}-{number}"
        taken.add(stem)
        files[path] = folder / f"{stem}.png"
    return files


def _record(path: Path, file: Path, ranked: Sequence[Explanation]) -> dict[str, Any]:
    first = ranked[0]
    return {
        "image": str(path),
        "picture": str(file),
        "layer": first.layer,
        "method": first.method,
        "backend": first.backend,
        "explanations": [
            {key: value for key, value in explanation.records()[0].items() if key not in _SHARED}
            for explanation in ranked
        ],
    }


def _lines(record: dict[str, Any]) -> str:
    lines = [record["image"]]
    for entry in record["explanations"]:
        p = entry["probability"]
        note = STATUS_NOTES[entry["status"]]
        lines.append(
            f"  {entry['class'] if entry['class'] is not None else '-':>5}  "
            f"{'' if p is None else f'{p:.4f}':>6}  {entry['label']}"
            + (f"  [{entry['status']}: {note}]" if note else "")
        )
    return "\n".join(lines)
