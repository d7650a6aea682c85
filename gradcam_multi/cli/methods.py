"""``gradcam methods``: what can be asked for, what each needs of a model and what it costs."""

import json
from typing import Any

import click

from gradcam_multi.cam import METHODS, Method
from gradcam_multi.cam.evidence import evidence


@click.command("methods")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array instead of a table.")
def command(as_json: bool) -> None:
    """List the methods with their papers, what they need and their cost in forward passes.

    C is the layer's number of channels, P its number of cells; --samples sets n. A map is blind to
    the class where it stays for another class, to the weights where it stays when all are redrawn:
    with a rank correlation above 0.5 on the demo's network, or on one of tokens where that has no
    attention to explain (docs/methods.md has the figures).
    """
    if as_json:
        keys = ("name", "formula", "paper", "needs", "cost", "unit_free", "only_for")
        rows = [
            {key: getattr(method, key) for key in keys} | _measured(method)
            for method in METHODS.values()
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    table = [("method", "needs", "cost", "blind to", "paper"), *map(_row, METHODS.values())]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _row(method: Method) -> tuple[str, ...]:
    found = evidence().get(method.name)
    blind = "?" if found is None else ", ".join(found.blind_to) or "-"
    return method.name, ", ".join(method.needs) or "-", method.cost, blind, method.paper


def _measured(method: Method) -> dict[str, Any]:
    found = evidence().get(method.name)
    if found is None:
        return {"blind_to": None, "sanity": None}
    return {"blind_to": found.blind_to, "sanity": vars(found)}
