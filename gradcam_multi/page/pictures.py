"""``gradcam explain --html``: the pictures of a run on one page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradcam_multi.explainer import Explainer
from gradcam_multi.explanation import Explanation
from gradcam_multi.page import Page, Row, explained_row, need_jinja
from gradcam_multi.spec import Inputs
from gradcam_multi.targets import TopClass, class_scores

CLASSES = 5
"""How many of the highest classes a page can switch between."""


class PicturePage:
    """A page that pictures are added to as they are explained.

    `ranked` tells whether the highest classes belong on it beside what was asked for: where that is
    a class's own score, and not a number of highest classes itself. `paths` are those of all
    pictures, in their order on the page. Raises MissingExtraError without Jinja2.
    """

    def __init__(self, file: Path, paths: Sequence[Path], ranked: bool) -> None:
        need_jinja()
        self.file = file
        self.ranked = ranked
        self.titles = [str(path) for path in paths]
        self.page = Page(len(paths))

    def further(
        self, explainer: Explainer, arrays: Inputs, asked: list[Explanation]
    ) -> list[Explanation]:
        """Explain a batch for the highest classes that `asked` may not hold."""
        if not self.ranked:
            return []
        classes = class_scores(asked[0].logits, asked[0].output).shape[1]
        return explainer.several(arrays, [TopClass(rank) for rank in range(min(CLASSES, classes))])

    def add(self, path: Path, picture: Any, found: list[Explanation]) -> None:
        """Add a picture with explanations of one item each; of a class that comes twice, one."""
        once = {each.classes[0]: each for each in reversed(found)}
        kept = [each for each in found if once[each.classes[0]] is each]
        self.page.add(explained_row(picture.image, kept, picture.geometry, str(path)))

    def fail(self, path: Path, message: str) -> None:
        """Add a picture that could not be read."""
        self.page.add(Row(str(path), error=message))

    def write(self, model: str, record: dict[str, Any]) -> Path:
        """Write the page; the model and what a picture's record says of all are its facts."""
        shared = ((key, str(record[key])) for key in ("method", "layer", "backend"))
        self.page.facts = [("model", model), *shared]
        self.page.arrange(self.titles)  # one that cannot be read is known before its neighbours
        return self.page.write(self.file)
