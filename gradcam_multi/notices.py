"""What a user is told of maps that say nothing, or not what one may think."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gradcam_multi.explanation import STATUS_NOTES, Explanation
from gradcam_multi.probabilities import SATURATED


class CamWarning(UserWarning):
    """A map of the batch says nothing, or not what one may think; the message says why."""


_SILENT = ContextVar("silent", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Warn of nothing in this thread; filters of `warnings` are those of all threads."""
    before = _SILENT.set(True)
    try:
        yield
    finally:
        _SILENT.reset(before)


def notify(message: str) -> None:
    """Warn at the line outside of this package that asked for the map."""
    if _SILENT.get():
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _own(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, CamWarning, stacklevel=level)


def _own(module: str) -> bool:
    return f"{module}.".startswith(f"{__package__}.")


def warn_of(explanation: Explanation, default: str | None) -> None:
    """Warn once for each kind of poor map; `default` is the layer that the rule would choose."""
    sure = explanation.saturated.sum()
    if sure:
        notify(f"{sure} of {len(explanation)} items: {SATURATED}")
    for status in dict.fromkeys(explanation.status):
        if status != "ok":
            count = explanation.status.count(status)
            cure = ""
            if status == "zero_gradient" and default not in (None, explanation.layer):
                cure = f"; the default layer is {default!r}"
            notify(f"{count} of {len(explanation)} maps: {status}: {STATUS_NOTES[status]}{cure}")
