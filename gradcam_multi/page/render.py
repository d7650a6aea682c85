"""Rows become one HTML file that needs nothing else."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradcam_multi.colormaps import DEFAULT_COLORMAP, colormap_names
from gradcam_multi.errors import ImageError, MissingExtraError
from gradcam_multi.explanation import STATUS_NOTES
from gradcam_multi.page.assets import asset, colour_tables, policy, script_json
from gradcam_multi.page.encoding import encoded
from gradcam_multi.page.overview import KINDS, PLACES, overview
from gradcam_multi.page.rows import Row

_SCRIPTS = ("maps.js", "cards.js", "filters.js", "dialog.js", "report.js")
_STYLES = ("page.css", "report.css")


class Page:
    """A self-contained HTML page of rows: counts and plots, then a gallery.

    Rows are added one by one and kept as small as the page keeps them; `count`, how many there will
    be, decides how large the pictures are. `facts` stand below the title, as pairs of what and its
    value; `findings` describe the findings that rows name. `small` leaves out what a page within a
    page has no room for.
    """

    def __init__(
        self,
        count: int,
        *,
        title: str = "Where the network looked",
        facts: Sequence[tuple[str, str]] = (),
        findings: Mapping[str, str] | None = None,
        small: bool = False,
    ) -> None:
        self.count = count
        self.title = title
        self.facts = facts
        self.findings = findings or {}
        self.small = small
        self._rows: list[dict[str, Any]] = []

    def add(self, row: Row) -> None:
        """Add a row at the end."""
        self._rows.append(encoded(row, self.count))

    def arrange(self, titles: Sequence[str]) -> None:
        """Bring the rows into the order of these titles."""
        place = {title: number for number, title in enumerate(titles)}
        self._rows.sort(key=lambda row: place[row["title"]])

    def html(self) -> str:
        """Return the page. Raises MissingExtraError without Jinja2."""
        rows = self._rows
        data = {
            "rows": rows,
            "tables": colour_tables(),
            "colormap": DEFAULT_COLORMAP,
            "notes": STATUS_NOTES,
        }
        scripts = [asset("page", name) for name in _SCRIPTS]
        named = Counter(name for row in rows for name in row["findings"])
        text: str = _template().render(
            title=self.title,
            facts=[(what, value) for what, value in self.facts if value],
            findings=[(name, text, named[name]) for name, text in self.findings.items()],
            overview=overview(rows),
            kinds=KINDS,
            places=PLACES,
            small=self.small,
            labelled=any(row["correct"] is not None for row in rows),
            statuses=sorted({each["status"] for row in rows for each in row["classes"]}),
            failed=any(row["error"] is not None for row in rows),
            named=sorted(named),
            colormaps=colormap_names(),
            colormap=DEFAULT_COLORMAP,
            styles=[asset("page", name) for name in _STYLES],
            scripts=scripts,
            data=script_json(data),
            policy=policy(scripts),
        )
        return text

    def write(self, path: str | Path) -> Path:
        """Write the page, all or nothing, and return its path.

        Raises ImageError where it cannot be written, MissingExtraError without Jinja2.
        """
        target, text = Path(path), self.html()
        try:
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
                file.write(text.encode())
            Path(file.name).chmod(0o644)
            os.replace(file.name, target)
        except OSError as error:
            raise ImageError(f"cannot write {str(target)!r}: {error.strerror}; check it") from error
        return target


def page_of(rows: Iterable[Row], count: int, **options: Any) -> Page:
    """Return a page of rows; `options` are those of `Page`."""
    page = Page(count, **options)
    for row in rows:
        page.add(row)
    return page


def need_jinja() -> None:
    """Raise MissingExtraError where no page can be written, before anything is computed for it."""
    _template()


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(
            "a page is written with Jinja2, which is not installed: "
            'pip install "gradcam-multi[report]"'
        ) from error
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(asset("page", "report.html.j2"))
