"""What to look at first in an audit."""

import numpy as np

from gradcam_multi.audit.findings import SURE, least_share
from gradcam_multi.audit.gathered import Gathered
from gradcam_multi.audit.settings import Record
from gradcam_multi.cam.normalize import STATUSES

MOST = 12
"""Suggestions."""
_EXAMPLES = 5


def suggestions(summary: Record, found: Gathered) -> list[Record]:
    """Return what to look at first, each with the indices of a few images.

    In this order: classes whose attention is in a place, sure errors, odd images, weak classes,
    maps that say nothing, pictures that failed.
    """
    findings = summary["findings"]
    said: list[Record] = []
    for each in findings["places"]:
        where = "in a corner" if each["kind"] == "corner" else "on the border"
        corners = ", ".join(
            f"{name.replace('_', ' ')} {share:.0%}"
            for name, share in each.get("corners", {}).items()
        )
        said.append(
            _suggestion(
                f"{each['name']}: the attention sits {where} in {each['share']:.0%} of "
                f"{each['images']} images" + (f" ({corners})" if corners else ""),
                _examples_at(found, each),
            )
        )
    wrong = findings["sure_and_wrong"]
    if wrong["count"]:
        said.append(
            _suggestion(
                f"{wrong['count']} wrong predictions with a probability of {SURE} or more",
                [image["index"] for image in wrong["images"]],
            )
        )
    odd = findings["outliers"]
    if odd["count"]:
        said.append(
            _suggestion(
                f"{odd['count']} images whose attention sits in a corner or on the border far more "
                "than their class's",
                [image["index"] for image in odd["images"]],
            )
        )
    for each in _weak(summary):
        rows = np.flatnonzero(
            (found.numbers["label_index"] == each["class"]) & (found.numbers["correct"] == 0)
        )
        said.append(
            _suggestion(
                f"{each['name']}: {each['accuracy']:.0%} of {each['labelled']} images are right, "
                f"{summary['accuracy']:.0%} of all",
                found.numbers["index"][rows].tolist(),
            )
        )
    flat = {s: n for s, n in summary["statuses"].items() if n and s != "ok"}
    if flat:
        rows = np.flatnonzero(found.status > STATUSES.index("ok"))
        told = ", ".join(f"{count} {status}" for status, count in flat.items())
        said.append(
            _suggestion(f"maps that say nothing: {told}", found.numbers["index"][rows].tolist())
        )
    if summary["failed"]:
        rows = np.flatnonzero(found.status < 0)
        said.append(
            _suggestion(
                f"{summary['failed']} pictures could not be read",
                found.numbers["index"][rows].tolist(),
            )
        )
    return said[:MOST]


def _suggestion(what: str, indices: list[int]) -> Record:
    return {"what": what, "images": [int(index) for index in indices[:_EXAMPLES]]}


def _examples_at(found: Gathered, entry: Record) -> list[int]:
    """Images of a class with the most evidence at the place that was found."""
    names = [f"{name}_energy" for name in entry.get("corners", ())] or ["border_energy"]
    share = np.max([found.numbers[name] for name in names], 0)
    wanted = np.nan if entry["class"] is None else entry["class"]
    target = found.numbers["target"]
    share = np.where((target == wanted) | (np.isnan(target) & np.isnan(wanted)), share, np.nan)
    order = np.argsort(-np.nan_to_num(share, nan=-1), kind="stable")[:_EXAMPLES]
    indices: list[int] = found.numbers["index"][order].tolist()
    return indices


def _weak(summary: Record) -> list[Record]:
    """Up to three classes that are right least often, surely less than all together."""
    if summary["accuracy"] is None:
        return []
    found = []
    for each in summary["classes"]:
        n = each["labelled"]
        if n and each["accuracy"] is not None:
            wrong = round((1 - each["accuracy"]) * n)
            if wrong and least_share(wrong, n) > 1 - summary["accuracy"]:
                found.append(each)
    return sorted(found, key=lambda each: float(each["accuracy"]))[:3]
