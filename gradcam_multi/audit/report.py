"""The rows of an audit's folder: of very many pictures, those that a page should show."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gradcam_multi.cam import Status
from gradcam_multi.errors import AuditError, ImageError, MissingExtraError
from gradcam_multi.images import load_image
from gradcam_multi.page.render import Page
from gradcam_multi.page.rows import ClassMap, Row
from gradcam_multi.spec import Array
from gradcam_multi.targets import class_name

LIMIT = 1000
"""Pictures on a page, unless asked otherwise: about 20 MB."""

_CORNER, _BORDER = "attention in a corner", "attention on the border"
_OUTLIER, _SURE = "unlike its class", "sure and wrong"
FINDINGS = {
    _CORNER: "half of the evidence or more, in a class that often has it there",
    _BORDER: "three quarters of the evidence or more, in a class that often has it there",
    _OUTLIER: "the evidence sits in a corner or on the border far more than their class's",
    _SURE: "wrong with a high probability",
}
_CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
Record = Mapping[str, Any]


def audit_page(folder: str | Path, limit: int = LIMIT) -> Page:
    """Return the page of an audit's folder, of at most `limit` pictures.

    Those with findings come first, then wrong answers and pictures that failed, then others from
    all of the audit alike. A picture that is no longer where it was is shown as its map alone.

    Raises ImageError where there is no audit, MissingExtraError without pyarrow.
    """
    out = Path(folder)
    about, summary = _json(out / "audit.json"), _json(out / "summary.json")
    marks, named = marked(summary), _named(summary)
    numbers, total = _chosen(out, marks, limit)
    settings = about.get("settings", {})
    source = settings.get("source", {}).get("given")
    from gradcam_multi.audit.result import open_audit  # needs pyarrow, which is there by now

    audit = open_audit(out)
    roots = (Path(), Path(source) if source else Path(), out)
    page = Page(
        len(numbers),
        facts=[
            ("model", str(settings.get("model", {}).get("name", ""))),
            ("method", str(settings.get("method") or "")),
            ("layer", str(settings.get("layer") or "")),
            ("pictures", f"{len(numbers)} of {total} in the audit"),
        ],
        findings={
            name: FINDINGS[name] for name in FINDINGS
            if any(name in each for each in marks.values()) or name in named
        },
    )  # fmt: skip
    for record in _records(out, numbers):
        found = (*marks.get(record["index"], ()), *_places(record, named))
        page.add(audited_row(record, settings.get("labels"), found, _picture(record, audit, roots)))
    return page


def audited_row(
    record: Record,
    labels: Sequence[str] | None = None,
    findings: Sequence[str] = (),
    picture: Any = None,
) -> Row:
    """Make a row of a record of an audit's table, maps as arrays; `picture` is (H, W, 3) uint8."""
    if record["error"] is not None:
        return Row(record["path"], label=record["label"], error=record["error"])
    classes = [
        ClassMap(
            record["target_name"] or "",
            record["score"],
            record["probability"],
            _scaled(record["map"], record["map_scale"]),
            record["status"],
        )
    ]
    maps = record.get("top_maps")
    for rank, index in enumerate(record["top5"] or ()):
        if index == record["target"]:
            continue
        cam = None
        if maps is not None and rank < len(maps):
            cam = _scaled(maps[rank], record["top_maps_scale"][rank])
        classes.append(
            ClassMap(
                class_name(index, labels),
                record["top5_scores"][rank],
                record["top5_probabilities"][rank],
                cam,
                _status(cam),
            )
        )
    view = record["view"]
    return Row(
        title=record["path"],
        picture=picture,
        classes=tuple(classes),
        view=(view[0], view[1], view[2], view[3]) if view else None,
        label=record["label"],
        correct=record["correct"],
        findings=tuple(findings),
    )


def marked(summary: Record) -> dict[int, tuple[str, ...]]:
    """Return the findings that a summary has of single pictures, by their index."""
    found: dict[int, tuple[str, ...]] = {}
    of = summary.get("findings", {})
    for key, name in (("outliers", _OUTLIER), ("sure_and_wrong", _SURE)):
        for image in of.get(key, {}).get("images", ()):
            found[image["index"]] = (*found.get(image["index"], ()), name)
    return found


def _named(summary: Record) -> dict[str, set[Any]]:
    """The classes whose attention sits in a place, by the finding's name."""
    named: dict[str, set[Any]] = {}
    for entry in summary.get("findings", {}).get("places", ()):
        name = _CORNER if entry["kind"] == "corner" else _BORDER
        named.setdefault(name, set()).add(entry["class"])
    return named


def _places(record: Record, named: Mapping[str, set[Any]]) -> list[str]:
    if record["error"] is not None:
        return []
    shares = {
        _CORNER: max((record.get(f"{name}_energy") or 0) / 0.5 for name in _CORNERS),
        _BORDER: (record.get("border_energy") or 0) / 0.75,
    }
    return [
        name for name, share in shares.items()
        if share >= 1 and record["target"] in named.get(name, ())
    ]  # fmt: skip


def _scaled(cam: Any, scale: float | None) -> Array | None:
    """A map as it was, from half precision of its largest magnitude."""
    return None if cam is None else np.asarray(cam, np.float32) * np.float32(scale or 0)


def _status(cam: Array | None) -> Status:
    flat = cam is not None and float(cam.max()) <= float(cam.min())
    return "constant" if flat else "ok"


def _picture(record: Record, audit: Any, roots: Sequence[Path]) -> Any:
    """Read a picture from the audit's source or, where that has changed, by its path."""
    with suppress(AuditError, ImageError):
        return audit.picture(record["index"])
    for root in roots:
        with suppress(ImageError):
            return load_image(root / record["path"])
    return None


def _json(path: Path) -> dict[str, Any]:
    """What a file of the audit says; nothing where it is not there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {str(path)!r}: {error}; run the audit again") from error
    return dict(found)


def _parts(folder: Path, columns: list[str] | None = None) -> Iterator[Any]:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError(
            "an audit's tables are read with pyarrow, which is not installed: pip install pyarrow"
        ) from error
    files = sorted(folder.glob("part-*.parquet"))
    if not files:
        raise ImageError(
            f"no audit in {str(folder)!r}: it holds no part-*.parquet; run gradcam audit first"
        )
    for file in files:
        try:
            yield pq.read_table(file, columns=columns)
        except (OSError, ValueError) as error:  # pyarrow's own errors are both
            raise ImageError(
                f"{str(file)!r} is damaged ({str(error).splitlines()[0]}): run the audit again"
            ) from error


def _chosen(
    folder: Path, marks: Mapping[int, tuple[str, ...]], limit: int
) -> tuple[list[int], int]:
    """The indices of the pictures to show, in their order, and how many there are in all."""
    notable: list[int] = []
    others: list[int] = []
    for table in _parts(folder, ["index", "correct", "error"]):
        columns = (table[name].to_pylist() for name in ("index", "correct", "error"))
        for index, correct, error in zip(*columns, strict=True):
            if index not in marks:
                (others if correct is not False and error is None else notable).append(index)
    first = [*marks, *notable][:limit]
    total = len(marks) + len(notable) + len(others)
    rest = max(0, min(limit - len(first), len(others)))
    spread = [others[place * len(others) // rest] for place in range(rest)]
    return sorted([*first, *spread]), total


def _records(folder: Path, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The rows of these indices, maps as arrays (h, w) and (k, h, w)."""
    wanted = set(numbers)
    for table in _parts(folder):
        rows = [n for n, index in enumerate(table["index"].to_pylist()) if index in wanted]
        if not rows:
            continue
        part = table.take(rows).combine_chunks()
        maps = {
            name: [None if cell is None else cell.to_numpy() for cell in _cells(part[name])]
            for name in ("map", "top_maps")
            if name in part.column_names
        }
        plain = part.drop_columns(list(maps)).to_pylist()
        for place, record in enumerate(plain):
            yield {**record, **{name: cells[place] for name, cells in maps.items()}}


def _cells(column: Any) -> list[Any]:
    """The tensors of a column of Arrow's fixed-shape type, None where null."""
    return [cell if cell.is_valid else None for cell in column]
