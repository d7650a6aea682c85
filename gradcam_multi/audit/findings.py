"""What is suspicious in an audit: attention in a corner or on the border, sure and wrong.

docs/audit.md says each rule in words; here are its numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.audit.figures import BORDER, CORNER, CORNERS
from gradcam_multi.audit.gathered import Gathered
from gradcam_multi.cam.normalize import STATUSES

Rows = NDArray[np.intp]
Entry = dict[str, Any]

IN_CORNER, ON_BORDER = 0.5, 0.75
"""The share of a map's evidence from which it sits in a corner, or on the border."""
FAR = 5.0
"""How many spreads above its class's median an image's share is far more than its class's."""
LEAST_SPREAD = 0.02
SURE = 0.9
"""The probability from which a wrong prediction is sure."""
FEWEST = 5
"""Images below which nothing is said of a class."""
LISTED = 100
"""Images that are named of each kind."""
_Z = 2.576  # of the 99 % interval


@dataclass(frozen=True)
class Place:
    """Where attention may sit: the share of the evidence that makes it sit there, and chance.

    `chance` is the place's share of the picture's area: how often attention that lies anywhere
    would be there.
    """

    kind: str
    share: float
    chance: float


PLACES = (
    Place("corner", IN_CORNER, 4 * CORNER**2),
    Place("border", ON_BORDER, 1 - (1 - 2 * BORDER) ** 2),
)


def least_share(count: int, total: int) -> float:
    """Return the lower end of the 99 % interval of a share (Wilson 1927, JASA 22:209)."""
    if not total:
        return 0.0
    p, z2 = count / total, _Z**2
    middle = p + z2 / (2 * total)
    spread = _Z * np.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return max(0.0, float((middle - spread) / (1 + z2 / total)))


def sitting(found: Gathered, place: Place) -> tuple[NDArray[np.float32], NDArray[Any], Any]:
    """Return each image's share of evidence at a place, the corner's number, and if it sits there.

    An image whose peak lies in its box does not: there the object is in the corner.
    """
    if place.kind == "corner":
        shares = np.stack([found.numbers[f"{name}_energy"] for name in CORNERS], 1)
        shares = np.where(found.status[:, None] == STATUSES.index("ok"), shares, np.nan)
        which = np.argmax(np.nan_to_num(shares, nan=-1), 1)
        share = shares[np.arange(len(shares)), which]
    else:
        share = np.where(
            found.status == STATUSES.index("ok"), found.numbers["border_energy"], np.nan
        )
        which = np.full(len(share), -1)
    sits = np.nan_to_num(share, nan=-1) >= place.share
    sits &= found.numbers["peak_in_box"] != 1
    return share, which, sits


def places(found: Gathered, names: list[str]) -> tuple[list[Entry], list[Entry]]:
    """Return the classes whose attention sits in a corner or on the border, and single images.

    A class is named where it is there more often than attention that lies anywhere would be; or
    where at least `FEWEST` images of it, surely more than 1 %, are far from the rest of their
    class in one place.
    """
    classes: list[Entry] = []
    images: list[Entry] = []
    target = np.nan_to_num(found.numbers["target"], nan=-1).astype(int)
    cornered = sitting(found, PLACES[0])[2]
    for place in PLACES:
        share, which, sits = sitting(found, place)
        if place.kind == "border":
            sits &= ~cornered  # said of the corner already
        for number in np.unique(target[np.isfinite(share)]):
            rows = np.flatnonzero((target == number) & np.isfinite(share))
            median, far = _far(share[rows])
            odd = rows[far & sits[rows]]
            counts = {
                name: int((which[rows[sits[rows]]] == k).sum()) for k, name in enumerate(CORNERS)
            }
            there = int(sits[rows].sum())
            if len(rows) >= FEWEST and _is_found(place, counts, there, odd, which, len(rows)):
                entry = {
                    "kind": place.kind,
                    "class": int(number) if number >= 0 else None,
                    "name": names[number] if number >= 0 else "all",
                    "images": len(rows),
                    "there": there,
                    "share": there / len(rows),
                }
                if place.kind == "corner":
                    entry["corners"] = {
                        name: count / len(rows)
                        for name, count in sorted(counts.items(), key=lambda pair: -pair[1])
                        if count >= max(1, 0.05 * there)
                    }
                classes.append(entry)
            images += [
                {
                    "row": int(row),
                    "place": list(CORNERS)[which[row]] if which[row] >= 0 else "border",
                    "share": float(share[row]),
                    "class_median": median,
                }
                for row in odd
            ]
    classes.sort(key=lambda entry: (entry["kind"] != "corner", -entry["share"]))
    images.sort(key=lambda entry: entry["class_median"] - entry["share"])
    return classes, images


def _far(share: NDArray[np.float32]) -> tuple[float, NDArray[np.bool_]]:
    """A class's median, and which of its images lie far above it."""
    median = float(np.median(share))
    spread = 1.4826 * float(np.median(np.abs(share - median)))  # of a normal distribution's
    far: NDArray[np.bool_] = share > median + FAR * max(spread, LEAST_SPREAD)
    return median, far


def _is_found(
    place: Place, counts: dict[str, int], there: int, odd: Rows, which: NDArray[Any], total: int
) -> bool:
    if least_share(there, total) > place.chance:
        return True
    if place.kind == "corner":
        # One corner's chance is a quarter of theirs; twice that is no longer chance.
        if least_share(max(counts.values()), total) > place.chance / 2:
            return True
        most = max(int((which[odd] == k).sum()) for k in range(len(CORNERS)))
    else:
        most = len(odd)
    return most >= FEWEST and least_share(most, total) > 0.01


def sure_and_wrong(found: Gathered) -> Rows:
    """Return the rows with a wrong prediction and a probability of `SURE` or more, surest first."""
    wrong = found.numbers["correct"] == 0
    sure = np.nan_to_num(found.top_probability, nan=-1) >= SURE
    rows = np.flatnonzero(wrong & sure)
    order: Rows = rows[np.argsort(-found.top_probability[rows], kind="stable")]
    return order
