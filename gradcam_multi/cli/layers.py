"""``gradcam layers``: what a model consists of, and which layer is explained by default."""

import json
from dataclasses import asdict

import click

from gradcam_multi.cli.models import Shape, model_options, open_model, sample, size_option
from gradcam_multi.errors import InputError
from gradcam_multi.layers import Layers, mark_default
from gradcam_multi.plugins import installed
from gradcam_multi.sizes import image_sizes
from gradcam_multi.spec import Inputs, Model
from gradcam_multi.tokens import fold_rows


@click.command("layers")
@click.argument("model")
@click.option("--all", "everything", is_flag=True, help="List layers without a grid, too.")
@size_option
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def command(
    model: str,
    everything: bool,
    input_size: Shape | None,
    backend: str | None,
    weights: str | None,
    trust: bool,
    as_json: bool,
) -> None:
    """List the layers of MODEL in execution order; * marks the one explained by default.

    MODEL is a file, or package.module:function that builds a model. A framework that can tell only
    by running (PyTorch) is run on a made-up input.
    """
    opened = installed().open(open_model(model, weights, trust), backend, trust)
    listed = _listed(opened, input_size)
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


def _listed(model: Model, size: Shape | None) -> Layers:
    """The layers, from a run on a made-up input where the framework cannot tell without one."""
    if size is None:
        try:
            return _marked(model, None)
        except InputError:
            pass
    inputs = sample(model, size)
    if size is None:
        click.echo(f"run on a made-up input {inputs.shape}; --input-size gives another", err=True)
    return _marked(model, inputs)


def _marked(model: Model, inputs: Inputs) -> Layers:
    listed = mark_default(model.layers(inputs))
    return fold_rows(listed, image_sizes(inputs, model.inputs))
