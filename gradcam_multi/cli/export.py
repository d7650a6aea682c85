"""``gradcam export``: an explanation as an ONNX file."""

from pathlib import Path
from typing import Any

import click

from gradcam_multi.cli.main import grid_option, layer_option, method_option
from gradcam_multi.cli.models import Shape, made_up, model_options, open_model, size_option
from gradcam_multi.cli.scores import output_option
from gradcam_multi.export import export


@click.command("export")
@click.argument("model")
@click.option(
    "--output",
    "-o",
    required=True,
    metavar="OUT.onnx",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.",
)
@click.option(
    "--kind",
    type=click.Choice(["heatmap", "gradient"]),
    default="heatmap",
    show_default=True,
    help="Return the heatmap, or activations and gradients for a cotangent.",
)
@layer_option
@grid_option
@method_option
@click.option(
    "--preprocess",
    metavar="PRESET|FILE",
    help="Noted in the file, and used to check it: imagenet, caffe, tf, unit, or a JSON file.",
)
@click.option("--opset", type=int, metavar="N", help="18 to 21.  [default: the model's own]")
@click.option(
    "--class-input",
    type=click.Choice(["optional", "required"]),
    default="optional",
    show_default=True,
    help="Whether class_index may be left out; ONNX Runtime Web needs it required.",
)
@size_option
@output_option
@model_options
def command(
    model: str,
    output: Path,
    kind: Any,
    layer: str | None,
    grid: tuple[int, ...] | None,
    method: str,
    preprocess: str | None,
    opset: int | None,
    class_input: Any,
    input_size: Shape | None,
    model_output: str | None,
    backend: str | None,
    weights: str | None,
    trust: bool,
) -> None:
    """Write MODEL with its explanation as one ONNX file of standard operators.

    MODEL is a file, or package.module:function that builds a model, with --weights.

    The file is checked against the model's own maps before it is written; where they differ, there
    is no file, the reason, and exit code 2.
    """
    written = export(
        open_model(model, weights, trust),
        output,
        kind=kind,
        layer=layer,
        method=method,
        inputs=made_up(input_size, count=2) if input_size else None,
        preprocess=preprocess,
        opset=opset,
        class_input=class_input,
        backend=backend,
        trust=trust,
        output=model_output,
        grid=grid,
    )
    click.echo(
        f"{written}: {kind}, {written.stat().st_size / 1e6:.1f} MB, equal to the model's own maps"
    )
