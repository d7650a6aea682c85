"""``gradcam layers``: what a model consists of, and which layer is explained by default."""

import json
from dataclasses import asdict

import click

from gradcam_multi.explainer import layers
from gradcam_multi.layers import Layers


@click.command("layers")
@click.argument("model")
@click.option("--all", "everything", is_flag=True, help="List layers without a grid, too.")
@click.option("--backend", help="The adapter to open the model with.  [default: who claims it]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def command(model: str, everything: bool, backend: str | None, as_json: bool) -> None:
    """List the layers of MODEL in execution order; * marks the one explained by default."""
    listed = layers(model, backend=backend)
    shown: Layers = listed if everything else listed.spatial
    if as_json:
        click.echo(json.dumps([asdict(layer) | {"grid": layer.grid} for layer in shown], indent=2))
        return
    click.echo(str(shown))
    hidden = len(listed) - len(shown)
    if hidden:
        click.echo(f"({hidden} without a grid not shown; --all lists them)", err=True)
    if listed.default is None:
        click.echo("no layer qualifies as the default: name one with --layer", err=True)
