"""``gradcam methods``: what can be asked for, what each needs of a model and what it costs."""

import json

import click

from gradcam_multi.cam import METHODS, Method


@click.command("methods")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead of a table.")
def command(as_json: bool) -> None:
    """List the methods with their papers, what they need and their cost in forward passes.

    C is the layer's number of channels, P its number of cells; --samples sets n.
    """
    if as_json:
        keys = ("name", "formula", "paper", "needs", "cost", "unit_free", "only_for")
        rows = [{key: getattr(method, key) for key in keys} for method in METHODS.values()]
        click.echo(json.dumps(rows, indent=2))
        return
    table = [("method", "needs", "cost", "paper"), *map(_row, METHODS.values())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _row(method: Method) -> tuple[str, str, str, str]:
    return method.name, ", ".join(method.needs) or "-", method.cost, method.paper
