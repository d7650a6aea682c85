"""The numbers of an audit's parts, gathered: a few dozen bytes a picture, and mean maps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradcam_multi.audit.figures import CORNERS
from gradcam_multi.audit.folder import Folder
from gradcam_multi.cam.normalize import STATUSES

NUMBERS = (
    "index", "label_index", "correct", "target", "probability", "peak_in_box", "box_energy",
    "border_energy", *(f"{name}_energy" for name in CORNERS), "entropy",
)  # fmt: skip
MOST = 20  # messages that are kept of what failed


@dataclass
class Gathered:
    """Every row's numbers, (rows,) float32 with NaN for null; indices and classes as integers.

    `top` (rows,) is the highest class and `top_probability` its probability; a class of -1 is
    none. `status` (rows,) are places in `STATUSES`, -1 for what failed. `mean_maps` maps a class
    that was explained to the mean of its maps, each first divided by its sum. `names` are what the
    classes are called. `failed` are the first pictures with an error, `unknown` labels that are no
    class, with how often they occur.
    """

    numbers: dict[str, NDArray[Any]]
    top: NDArray[np.int32]
    top_probability: NDArray[np.float32]
    status: NDArray[np.int8]
    mean_maps: dict[int, NDArray[np.float64]]
    names: dict[int, str]
    failed: list[dict[str, str]]
    unknown: dict[str, int]

    def __len__(self) -> int:
        return len(self.status)


def gather(folder: Folder) -> Gathered:
    """Read the numbers of every part that is there."""
    columns = [*NUMBERS, "path", "label", "top5", "top5_probabilities", "target_name", "status"]
    parts: dict[str, list[NDArray[Any]]] = {}
    sums: dict[int, tuple[int, NDArray[np.float64]]] = {}
    names: dict[int, str] = {}
    failed: list[dict[str, str]] = []
    unknown: dict[str, int] = {}
    for table in folder.tables([*columns, "map", "error"]):
        numbers = {name: _numbers(table[name]) for name in NUMBERS}
        for name, found in numbers.items():
            parts.setdefault(name, []).append(found)
        for name in ("top5", "top5_probabilities"):
            parts.setdefault(name, []).append(_first(table[name]))
        status = table["status"].to_pylist()
        codes = [STATUSES.index(each) if each is not None else -1 for each in status]
        parts.setdefault("status", []).append(np.array(codes, np.int8))
        _add_maps(sums, _classes(numbers["target"]), table["map"])
        _add_names(names, table)
        _add_failed(failed, table)
        _add_unknown(unknown, table)
    joined = {name: np.concatenate(found) for name, found in parts.items()}
    if not joined:
        joined = {name: np.zeros(0) for name in (*NUMBERS, "top5", "top5_probabilities", "status")}
    return Gathered(
        numbers={name: joined[name] for name in NUMBERS},
        top=_classes(joined["top5"]),
        top_probability=joined["top5_probabilities"].astype(np.float32),
        status=joined["status"].astype(np.int8),
        mean_maps={number: total / count for number, (count, total) in sums.items()},
        names=names,
        failed=failed,
        unknown=unknown,
    )


def _numbers(column: Any) -> NDArray[Any]:
    """A column as an array: the index as it is, the others as float32 with NaN for null."""
    if column.type == pa.int64():
        found: NDArray[Any] = column.to_numpy()
        return found
    return np.asarray(column.cast(pa.float32()).to_numpy(), np.float32)


def _classes(values: NDArray[Any]) -> NDArray[np.int32]:
    found: NDArray[np.int32] = np.nan_to_num(values, nan=-1).astype(np.int32)
    return found


def _first(column: Any) -> NDArray[np.float32]:
    """The first entry of each list, NaN for null."""
    return np.array([np.nan if row is None else row[0] for row in column.to_pylist()], np.float32)


def _add_maps(
    sums: dict[int, tuple[int, NDArray[np.float64]]], classes: NDArray[np.int32], column: Any
) -> None:
    chunk = column.combine_chunks()
    there = np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False))
    shape = column.type.shape
    values = chunk.storage.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
    maps = np.maximum(values.astype(np.float64), 0)
    total = maps.sum((1, 2))
    for number in np.unique(classes[there]):
        rows = (classes[there] == number) & (total > 0)
        if rows.any():
            count, found = sums.get(int(number), (0, np.zeros(shape)))
            shares = maps[rows] / total[rows, None, None]
            sums[int(number)] = count + int(rows.sum()), found + shares.sum(0)


def _add_names(names: dict[int, str], table: Any) -> None:
    both = zip(table["target"].to_pylist(), table["target_name"].to_pylist(), strict=True)
    for number, name in set(both):
        if number is not None:
            names.setdefault(number, name)


def _add_failed(failed: list[dict[str, str]], table: Any) -> None:
    if len(failed) < MOST and table["error"].null_count < table.num_rows:
        both = zip(table["path"].to_pylist(), table["error"].to_pylist(), strict=True)
        found = [{"path": path, "error": error} for path, error in both if error is not None]
        failed += found[: MOST - len(failed)]


def _add_unknown(unknown: dict[str, int], table: Any) -> None:
    columns = (table[name].to_pylist() for name in ("label", "label_index", "top5"))
    for label, number, top in zip(*columns, strict=True):
        value = top is not None and len(top) == 1  # what the model gives is no class either
        if label is not None and number is None and not value:
            unknown[label] = unknown.get(label, 0) + 1
