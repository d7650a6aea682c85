"""``gradcam compare``: do models still look at the same place? A table, and an exit code for CI."""

import glob
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gradcam_multi.cli.explain import FEW
from gradcam_multi.cli.main import class_or_name, fail, labels_option, make_folder, method_option
from gradcam_multi.cli.models import is_named, open_model
from gradcam_multi.comparer import Comparer, one_each
from gradcam_multi.comparison import DEFAULT_DRIFT, Comparison, Limits
from gradcam_multi.errors import ImageError
from gradcam_multi.images import SUFFIXES, find_images, load_image
from gradcam_multi.labels import read_labels
from gradcam_multi.preprocess import Preprocess

PANEL = "worst.png"
WORST = 4  # cases in the panel


@click.command("compare")
@click.argument("reference")
@click.argument("others", nargs=-1, required=True, metavar="OTHER... IMAGE...")
@click.option(
    "--target",
    callback=class_or_name,
    metavar="N|NAME",
    help="Class to explain.  [default: the reference's top class]",
)
@click.option(
    "--layer",
    metavar="NAME|A=B",
    help="Layer of all models, or of each: reference=other.  [default: the final feature map]",
)
@method_option
@labels_option
@click.option(
    "--preprocess",
    multiple=True,
    default=("imagenet",),
    metavar="PRESET|FILE",
    help="imagenet, caffe, tf, unit, or a JSON file; once for all models, or once for each.  "
    "[default: imagenet]",
)
@click.option(
    "--max-drift",
    type=float,
    default=DEFAULT_DRIFT,
    show_default=True,
    help="Largest share of a map's evidence that may move on any image.",
)
@click.option("--min-correlation", type=float, help="Least correlation of the maps of any image.")
@click.option(
    "--min-agreement", type=float, help="Least share of images with the reference's top class."
)
@click.option(
    "--output",
    "-o",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help=f"Folder for {PANEL}, a picture of the worst cases.",
)
@click.option(
    "--backend", multiple=True, metavar="NAME", help="Adapter; once for all models, or for each."
)
@click.option(
    "--weights",
    multiple=True,
    metavar="FILE",
    help="For models that a function builds: once for all of them, or once for each.",
)
@click.option(
    "--model-output",
    multiple=True,
    metavar="NAME",
    help="Output to explain; once for all models, or for each.",
)
@click.option("--trust", is_flag=True, help="Run code that the models' files hold.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    reference: str,
    others: tuple[str, ...],
    target: int | str | None,
    layer: str | None,
    method: str,
    labels: str | None,
    preprocess: tuple[str, ...],
    max_drift: float,
    min_correlation: float | None,
    min_agreement: float | None,
    output: Path | None,
    backend: tuple[str, ...],
    weights: tuple[str, ...],
    model_output: tuple[str, ...],
    trust: bool,
    as_json: bool,
) -> None:
    """Compare where REFERENCE and each OTHER model look in each IMAGE (files, folders, patterns).

    A model is a file, or package.module:function that builds one. All explain the reference's top
    class. Exit code 1 where a limit is broken or some pictures could not be read, 2 where nothing
    could be compared.
    """
    models = [reference, *(name for name in others if not _is_picture(name))]
    images = [name for name in others if _is_picture(name)]
    if len(models) < 2 or not images:
        fail(
            f"compare needs a reference, another model and pictures; found {len(models)} "
            f"model{'s' * (len(models) > 1)} and {len(images)} of pictures: give what is missing"
        )
    limits = Limits(max_drift, min_correlation, min_agreement)
    paths = find_images(images)
    names, opened = _opened(models, weights, trust)
    comparer = Comparer(
        opened,
        names=names,
        trust=trust,
        layers=_layers(layer, len(models)),
        method=method,
        backends=backend or (None,),
        outputs=model_output or (None,),
        labels=read_labels(labels) if labels else None,
        preprocess=[Preprocess.named(name) for name in preprocess],
    )
    if output is not None:
        make_folder(output)
    skipped: list[str] = []
    seen = 0
    # disable=None: no bar where stderr is not a terminal.
    quiet = None if len(paths) >= FEW else True
    with tqdm(total=len(paths), unit="picture", leave=False, disable=quiet) as bar:
        for count in comparer.pictures(_read(paths, skipped), target):
            bar.update(count + len(skipped) - seen)
            seen = len(skipped)
    if len(skipped) == len(paths):
        _say(skipped)
        sys.exit(2)
    comparison = comparer.result(limits, skipped)
    click.echo(comparison.to_json().rstrip() if as_json else str(comparison))
    if output is not None:
        _draw(comparison, output / PANEL)
        click.echo(f"worst cases: {output / PANEL}", err=as_json)
    _say([*skipped, *(comparison.failures if as_json else ())])  # the table holds the failures
    if skipped or not comparison.passed:
        sys.exit(1)


def _opened(
    models: Sequence[str], weights: Sequence[str], trust: bool
) -> tuple[list[str], list[Any]]:
    """What the report calls each model, and what `Explainer` takes for it."""
    built = sum(map(is_named, models))
    given = iter(one_each(weights, built, "weights") if weights and built else weights)
    names, opened = [], []
    for model in models:
        file = next(given, None) if is_named(model) else None
        names.append(f"{model} {Path(file).name}" if file else Path(model).name)
        opened.append(open_model(model, file, trust))
    if next(given, None) is not None:
        fail("--weights go into what a function builds, and no model is package.module:function")
    return names, opened


def _is_picture(name: str) -> bool:
    """Whether an argument stands for pictures: a file by its suffix, a folder, or a pattern."""
    path = Path(name)
    if path.is_dir():
        return not (path / "saved_model.pb").exists()
    return path.suffix.lower() in SUFFIXES or (glob.has_magic(name) and not path.exists())


def _layers(asked: str | None, count: int) -> list[str | None]:
    """Return one layer for all models, or one for each: A=B is the reference's and the others'."""
    names: list[str | None] = [*asked.split("=")] if asked else [None]
    return [names[0], *names[1:] * (count - 1)] if len(names) == 2 else names


def _read(paths: Sequence[Path], skipped: list[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Read pictures one by one; why one cannot be read is added to `skipped`, the others go on."""
    for path in paths:
        try:
            yield str(path), load_image(path)
        except ImageError as error:
            skipped.append(str(error))


def _draw(comparison: Comparison, file: Path) -> None:
    images = {pair.image: load_image(pair.image) for pair in comparison.ranked()[:WORST]}
    comparison.to_pil(images, WORST).save(file)


def _say(messages: Sequence[str]) -> None:
    for message in messages:
        click.echo(f"gradcam: {message}", err=True)
