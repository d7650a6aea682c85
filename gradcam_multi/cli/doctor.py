"""``gradcam doctor``: what a model is, and whether and how it can be explained."""

import sys
from pathlib import Path

import click

from gradcam_multi.cli.main import layer_option
from gradcam_multi.cli.models import model_options, open_model
from gradcam_multi.cli.scores import output_option
from gradcam_multi.doctor import doctor


@click.command("doctor")
@click.argument("model")
@layer_option
@click.option(
    "--image",
    metavar="PICTURE",
    type=click.Path(path_type=Path),
    help="Picture to test with.  [default: seeded noise]",
)
@click.option(
    "--preprocess",
    default="imagenet",
    show_default=True,
    metavar="PRESET|FILE",
    help="For --image: imagenet, caffe, tf, unit, or a JSON file.",
)
@output_option
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    model: str,
    layer: str | None,
    image: Path | None,
    preprocess: str,
    model_output: str | None,
    backend: str | None,
    weights: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Say what MODEL is, which layer is explained and which methods work.

    MODEL is a file, or package.module:function that builds a model.

    Exit code 1 where it cannot be explained, with the reason and what to do; 2 for a file that is
    not there or a test picture that does not fit.
    """
    found = doctor(
        open_model(model, weights, trust),
        image=image,
        preprocess=preprocess,
        layer=layer,
        backend=backend,
        trust=trust,
        output=model_output,
    )
    click.echo(found.to_json().rstrip() if as_json else str(found))
    if not found.explainable:
        sys.exit(1)
