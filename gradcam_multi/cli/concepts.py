"""``gradcam concepts``: what a layer's activations are made of, and where in the pictures."""

import json
from pathlib import Path

import click
import numpy as np

from gradcam_multi.cli.main import (
    fail,
    grid_option,
    labels_option,
    layer_option,
    make_folder,
    preprocess_option,
)
from gradcam_multi.cli.models import model_options, open_model
from gradcam_multi.concepts import concepts
from gradcam_multi.explainer import Explainer
from gradcam_multi.images import find_images, load_image
from gradcam_multi.labels import read_labels
from gradcam_multi.picture_input import PictureInput
from gradcam_multi.preprocess import Preprocess

BATCH = 8  # pictures that are run at once


@click.command("concepts")
@click.argument("model", metavar="MODEL")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--number", default=5, show_default=True, type=click.IntRange(1), help="How many concepts."
)
@layer_option
@grid_option
@labels_option
@preprocess_option
@click.option(
    "--output",
    "-o",
    default="concepts.png",
    show_default=True,
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The picture to write.",
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines.")
def command(
    model: str,
    images: tuple[str, ...],
    number: int,
    layer: str | None,
    grid: tuple[int, ...] | None,
    labels: str | None,
    preprocess: str,
    output: Path,
    backend: str | None,
    weights: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Show what a layer of MODEL sees in the IMAGEs (files, folders or patterns).

    MODEL is a file, or package.module:function that builds a model, with --weights.

    Finds the concepts that the layer's activations are made of (Deep Feature Factorization), the
    same in all pictures, and what the network says to each alone. Writes one picture: a row for
    each IMAGE, each concept over it. Exit code 2 where it cannot be done.
    """
    paths = find_images(images)
    prepare = Preprocess.named(preprocess)
    explainer = Explainer(
        open_model(model, weights, trust), layer=layer, backend=backend, trust=trust, grid=grid,
        labels=read_labels(labels) if labels else None, batch_size=BATCH,
    )  # fmt: skip
    if any(spec.shape and spec.shape[0] == 1 for spec in explainer.model.inputs):
        explainer.batch_size = 1
    taken = PictureInput.of(explainer.model, "the model")
    pictures = [load_image(path) for path in paths]
    prepared = [taken.apply(prepare, picture) for picture in pictures]
    found = concepts(explainer, np.stack([array for array, _ in prepared]), number)
    if output.parent != Path():
        make_folder(output.parent)
    try:
        found.to_pil(pictures, [geometry for _, geometry in prepared]).save(output)
    except (OSError, ValueError) as error:
        fail(f"cannot write {str(output)!r}: {error}; give another --output")
    told = [
        {
            "concept": k + 1,
            "classes": [{"label": name, "probability": p} for name, p in found.classes(k)],
        }
        for k in range(number)
    ]
    if as_json:
        record = {
            "picture": str(output), "layer": found.layer, "backend": found.backend,
            "explained": found.explained, "concepts": told,
        }  # fmt: skip
        click.echo(json.dumps(record, indent=2))
        return
    for k in range(number):
        classes = ", ".join(f"{name} {p:.4f}" for name, p in found.classes(k))
        click.echo(f"  {k + 1:>2}  {classes}")
    click.echo(
        f"{number} concepts of {len(paths)} picture{'s' * (len(paths) != 1)} in {output}: layer "
        f"{found.layer}, {found.explained:.0%} of its activations, {found.backend}"
    )
