"""``gradcam live``: Grad-CAM in a browser, with no framework and nothing computed by a server."""

from pathlib import Path

import click

from gradcam_multi.cli.main import (
    grid_option,
    labels_option,
    layer_option,
    method_option,
    preprocess_option,
)
from gradcam_multi.cli.models import Shape, made_up, model_options, open_model, size_option
from gradcam_multi.cli.scores import output_option
from gradcam_multi.labels import read_labels
from gradcam_multi.live import make_server, write_live
from gradcam_multi.preprocess import Preprocess


@click.command("live")
@click.argument("model")
@click.option(
    "--output",
    "-o",
    default="gradcam-live",
    show_default=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="Folder to write; with --single-file also a name that ends in .html.",
)
@click.option("--single-file", is_flag=True, help="Write one HTML file that works from the disk.")
@click.option("--serve", is_flag=True, help="Serve the folder on 127.0.0.1 until Ctrl+C.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Of --serve."
)
@click.option(
    "--runtime",
    metavar="DIR|URL",
    help="Another copy of ONNX Runtime Web's files.  [default: gradcam-multi-web's]",
)
@click.option("--title", metavar="TEXT", help="Title of the page.  [default: the model's name]")
@labels_option
@preprocess_option
@layer_option
@grid_option
@method_option
@size_option
@output_option
@model_options
def command(
    model: str,
    output: Path,
    single_file: bool,
    serve: bool,
    port: int,
    runtime: str | None,
    title: str | None,
    labels: str | None,
    preprocess: str,
    layer: str | None,
    grid: tuple[int, ...] | None,
    method: str,
    input_size: Shape | None,
    model_output: str | None,
    backend: str | None,
    weights: str | None,
    trust: bool,
) -> None:
    """Write a page that shows where MODEL looks in pictures that are dropped on it.

    MODEL is a file, or package.module:function that builds a model, with --weights.

    It is exported as by `gradcam export`, checked, and runs in the browser: no picture leaves the
    page. A folder needs a server of files, such as --serve; one file works from the disk.
    """
    if serve and single_file:
        raise click.UsageError("--serve and --single-file exclude each other: one file needs none")
    written = write_live(
        open_model(model, weights, trust),
        output,
        single_file=single_file,
        runtime=runtime,
        labels=read_labels(labels) if labels else None,
        title=title or Path(model).name,
        preprocess=Preprocess.named(preprocess),
        layer=layer,
        method=method,
        inputs=made_up(input_size, count=2) if input_size else None,
        output=model_output,
        backend=backend,
        trust=trust,
        grid=grid,
    )
    if single_file:
        click.echo(f"{written}: {written.stat().st_size / 1e6:.1f} MB; open it in a browser")
        return
    click.echo(f"{written.parent}: index.html with the model, and nothing from elsewhere")
    if not serve:
        return
    with make_server(written.parent, port) as server:
        click.echo(f"http://127.0.0.1:{server.server_port}/  (Ctrl+C ends it)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("ended")
