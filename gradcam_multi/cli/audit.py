"""``gradcam audit``: many pictures in; Parquet parts and a summary out."""

import sys
from pathlib import Path
from typing import Any

import click

from gradcam_multi.audit import ENGINES, audit
from gradcam_multi.audit.extras import require
from gradcam_multi.cli.main import (
    class_or_name,
    fail,
    grid_option,
    labels_option,
    layer_option,
    method_option,
    preprocess_option,
)
from gradcam_multi.cli.models import model_options, open_model
from gradcam_multi.cli.scores import asked_target, output_option, score_options
from gradcam_multi.labels import read_labels


@click.command("audit")
@click.argument("model", required=False)
@click.argument("source", required=False)
@click.option(
    "--output",
    "-o",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the parts; the same command goes on with what is there.",
)
@click.option(
    "--summary", "only_summary", is_flag=True, help="Only sum up the audit that DIR holds."
)
@click.option(
    "--target",
    callback=class_or_name,
    metavar="N|NAME",
    help="Class to explain.  [default: the top class of each picture]",
)
@score_options
@click.option(
    "--top", default=0, metavar="K", help="Keep maps of the K highest classes too.  [default: 0]"
)
@layer_option
@grid_option
@method_option
@click.option(
    "--guided", is_flag=True, help="Keep positive gradients at positive activations only."
)
@labels_option
@preprocess_option
@click.option("--image-column", metavar="NAME", help="Of a table, its pictures.  [default: image]")
@click.option("--label-column", metavar="NAME", help="Of a table, its labels.  [default: label]")
@click.option("--box-column", metavar="NAME", help="Of a table, its boxes.  [default: box]")
@click.option("--folder-labels", is_flag=True, help="A picture's folder is its label.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default="local", show_default=True, help="What runs it."
)
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Threads, or Ray actors.")
@click.option(
    "--ray-address", metavar="ADDRESS", help="Of a Ray cluster.  [default: one made here]"
)
@click.option("--part", type=click.IntRange(1), metavar="N", help="Pictures in a part.")
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Pictures in the model at once.")
@click.option("--retry-failed", is_flag=True, help="Do parts again in which pictures failed.")
@output_option
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def command(
    model: str | None,
    source: str | None,
    output: Path,
    only_summary: bool,
    target: int | str | None,
    score: str,
    versus: int | str | None,
    top: int,
    grid: tuple[int, ...] | None,
    labels: str | None,
    model_output: str | None,
    weights: str | None,
    trust: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Explain every picture of SOURCE, and say what is suspicious.

    SOURCE is a folder, a pattern, a CSV or Parquet file with a column of pictures (and perhaps of
    labels and boxes), or a WebDataset tar. Exit code 1 where some pictures could not be read, 2
    where nothing could be done; 130 where it was interrupted.
    """
    require("pyarrow", "audit")
    from gradcam_multi.audit.folder import SUMMARY, Folder
    from gradcam_multi.audit.result import open_audit
    from gradcam_multi.audit.summary import summarise

    if only_summary:
        if model is not None:
            raise click.UsageError("--summary sums up what DIR holds: leave out MODEL and SOURCE")
        folder = Folder(output)
        folder.write_json(SUMMARY, summarise(folder))
        found = open_audit(output)
    else:
        if model is None or source is None:
            raise click.UsageError("give MODEL and SOURCE, or --summary for an audit that is there")
        asked = asked_target(target, score, versus)
        plain = (target, score, versus) == (None, "logit", None)
        try:
            found = audit(
                open_model(model, weights, trust),
                source,
                output,
                target=None if plain else asked,
                top=top,
                grid=grid,
                labels=read_labels(labels) if labels else None,
                model_output=model_output,
                trust=trust,
                name=Path(model).name if Path(model).exists() else model,
                **options,
            )
        except KeyboardInterrupt:
            fail(f"stopped; {output} keeps what is done, and the same command goes on", 130)
    summary = found.summary
    if as_json:
        click.echo((output / SUMMARY).read_text(encoding="utf-8").rstrip())
    else:
        click.echo(str(found))
    for failure in summary["failures"]:
        click.echo(f"gradcam: {failure['error']}", err=True)
    if summary["failed"] > len(summary["failures"]):
        click.echo(f"gradcam: {summary['failed']} failed in all: column error", err=True)
    if summary["failed"]:
        sys.exit(1 if summary["failed"] < summary["done"] else 2)
