"""``gradcam report``: an audit as one HTML file."""

from pathlib import Path

import click

from gradcam_multi.audit.report import LIMIT, audit_page
from gradcam_multi.page import need_jinja


@click.command("report")
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: report.html in OUT]",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=LIMIT,
    show_default=True,
    help="Pictures to show: those with findings first, then wrong ones, then others.",
)
def command(folder: Path, output: Path | None, limit: int) -> None:
    """Write one HTML file of an audit's folder OUT: overview, and a gallery to filter.

    It needs nothing else and asks for nothing: pictures and maps are in it.
    """
    need_jinja()
    page = audit_page(folder, limit)
    written = page.write(output or folder / "report.html")
    click.echo(f"{written}: {page.count} pictures, {written.stat().st_size / 1e6:.1f} MB")
