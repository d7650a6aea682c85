"""An explanation in a notebook: a small page in a frame of its own, else a picture."""

from html import escape
from math import ceil
from typing import Any

from gradcam_multi.errors import MissingExtraError
from gradcam_multi.explanation import Explanation
from gradcam_multi.page.render import page_of
from gradcam_multi.page.rows import rows_of

_ROWS = 24  # more maps than this make a cell's output slow to open
_ACROSS = 4  # cards beside each other in a usual notebook


def mimebundle(explanation: Explanation) -> dict[str, Any]:
    """Return what a notebook shows of an explanation, by MIME type.

    The page stands in a frame that may run its script and reach nothing else of the notebook.
    PNG and text are for viewers that show no HTML; without Jinja2, or for maps that are not 2-D,
    they are all there is.
    """
    bundle: dict[str, Any] = {"text/plain": repr(explanation)}
    png = explanation._repr_png_()
    if png is None:
        return bundle
    bundle["image/png"] = png
    shown = explanation[:_ROWS]
    try:
        page = page_of(rows_of(shown), len(shown), title="Explanation", small=True).html()
    except MissingExtraError:
        return bundle
    height = 120 + 320 * ceil(len(shown) / _ACROSS)
    bundle["text/html"] = (
        f'<iframe sandbox="allow-scripts" srcdoc="{escape(page)}" title="Explanation" '
        f'style="width: 100%; height: {min(height, 760)}px; border: 0"></iframe>'
    )
    return bundle
