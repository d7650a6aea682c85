"""What an audit found, as one JSON object; docs/audit.md defines each figure."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi import __version__
from gradcam_multi.audit.figures import CORNERS
from gradcam_multi.audit.findings import LISTED, places, sure_and_wrong
from gradcam_multi.audit.first import suggestions
from gradcam_multi.audit.folder import Folder
from gradcam_multi.audit.gathered import Gathered, gather
from gradcam_multi.audit.settings import SCHEMA, Record
from gradcam_multi.cam.normalize import STATUSES
from gradcam_multi.targets import class_name


def summarise(folder: Folder) -> Record:
    """Sum up the parts that are there, also of an audit that is not finished.

    Raises AuditError where there is no audit, or a part is damaged.
    """
    record = folder.record()
    settings = record["settings"]
    found = gather(folder)
    names = _names(found, settings["labels"])
    classes, images = places(found, names)
    wrong = sure_and_wrong(found)
    rows = [image["row"] for image in images[:LISTED]] + wrong[:LISTED].tolist()
    paths = _paths(folder, found.numbers["index"][rows].tolist())
    labelled = np.isfinite(found.numbers["correct"])
    summary: Record = {
        "schema": SCHEMA,
        "version": __version__,
        "model": settings["model"]["name"],
        "method": settings["method"],
        "pictures": settings["source"]["pictures"],
        "done": len(found),
        "failed": int((found.status < 0).sum()),
        "failures": found.failed,
        "labelled": int(labelled.sum()),
        "unknown_labels": dict(sorted(found.unknown.items(), key=lambda pair: -pair[1])[:LISTED]),
        "accuracy": _mean(found.numbers["correct"]),
        "statuses": {
            status: int((found.status == code).sum()) for code, status in enumerate(STATUSES)
        },
        **_figures(found, np.ones(len(found), np.bool_)),
        "classes": [_class(found, number, name) for number, name in enumerate(names)],
        "findings": {
            "places": classes,
            "outliers": {
                "count": len(images),
                "images": [_image(found, names, paths, each) for each in images[:LISTED]],
            },
            "sure_and_wrong": {
                "count": len(wrong),
                "images": [_wrong(found, names, paths, row) for row in wrong[:LISTED].tolist()],
            },
        },
    }
    first = suggestions(summary, found)
    examples = _paths(folder, [index for each in first for index in each["images"]])
    for each in first:
        each["images"] = [{"index": index, "path": examples[index]} for index in each["images"]]
    return {**summary, "first": first}


def _names(found: Gathered, labels: list[str] | None) -> list[str]:
    """What each class is called, up to the last that occurs."""
    of_labels = found.numbers["label_index"]
    seen = [-1, *found.names, *found.top.tolist(), *of_labels[np.isfinite(of_labels)].astype(int)]
    return [class_name(number, labels) for number in range(max(*seen, len(labels or ()) - 1) + 1)]


def _mean(values: NDArray[Any]) -> float | None:
    told = values[np.isfinite(values)]
    return float(told.mean(dtype=np.float64)) if len(told) else None


def _median(values: NDArray[Any]) -> float | None:
    told = values[np.isfinite(values)]
    return float(np.median(told)) if len(told) else None


def _figures(found: Gathered, rows: NDArray[np.bool_]) -> Record:
    numbers = found.numbers
    corners = {name: numbers[f"{name}_energy"] for name in CORNERS}
    return {
        "entropy": _median(numbers["entropy"][rows]),
        "peak_in_box": _mean(numbers["peak_in_box"][rows]),
        "box_energy": _mean(numbers["box_energy"][rows]),
        "border_energy": _median(numbers["border_energy"][rows]),
        "corner_energy": {name: _mean(corner[rows]) for name, corner in corners.items()},
        "largest_corner_energy": _median(np.max([*corners.values()], 0)[rows]),
    }


def _class(found: Gathered, number: int, name: str) -> Record:
    labelled = found.numbers["label_index"] == number
    explained = found.numbers["target"] == number
    mean = found.mean_maps.get(number)
    return {
        "class": number,
        "name": name,
        "labelled": int(labelled.sum()),
        "predicted": int((found.top == number).sum()),
        "accuracy": _mean(found.numbers["correct"][labelled]),
        "explained": int(explained.sum()),
        "flat": int((explained & (found.status != STATUSES.index("ok"))).sum()),
        **_figures(found, explained),
        "mean_map": None if mean is None else [[float(f"{v:.4g}") for v in row] for row in mean],
    }


def _paths(folder: Folder, indices: list[int]) -> dict[int, str]:
    """The paths of some pictures, read from the parts that hold them."""
    wanted = set(indices)
    paths: dict[int, str] = {}
    if wanted:
        for table in folder.tables(["index", "path"]):
            numbers = table["index"].to_numpy()
            for row in np.flatnonzero(np.isin(numbers, [*wanted])).tolist():
                paths[int(numbers[row])] = table["path"][row].as_py()
    return paths


def _image(found: Gathered, names: list[str], paths: dict[int, str], entry: Record) -> Record:
    row = entry["row"]
    target = found.numbers["target"][row]
    return {
        "index": int(found.numbers["index"][row]),
        "path": paths[int(found.numbers["index"][row])],
        "class": int(target) if np.isfinite(target) else None,
        "name": names[int(target)] if np.isfinite(target) else "all",
        **{key: value for key, value in entry.items() if key != "row"},
    }


def _wrong(found: Gathered, names: list[str], paths: dict[int, str], row: int) -> Record:
    label = int(found.numbers["label_index"][row])
    return {
        "index": int(found.numbers["index"][row]),
        "path": paths[int(found.numbers["index"][row])],
        "label": label,
        "name": names[label],
        "predicted": int(found.top[row]),
        "predicted_name": names[int(found.top[row])],
        "probability": float(found.top_probability[row]),
    }
