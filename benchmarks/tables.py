"""What the report and the README say alike: which records, and tables of them in Markdown."""

from collections.abc import Iterable, Sequence

from .records import Record

OURS = "gradcam-multi"


def machine(environments: Sequence[Record], records: Sequence[Record]) -> str:
    """Return a sentence on what was measured with, and one on when."""
    dates = sorted({record["date"] for record in records})
    first = environments[0]
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{first['processor']}, {first['cores']} cores, {first['memory_gb']} GB, "
        f"{first['system']}, Python {first['python']}, {first['threads']} threads a framework. "
        f"Measured {when}."
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, its first column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def chosen(records: Iterable[Record], experiment: str, **about: object) -> list[Record]:
    return [
        record
        for record in records
        if record["experiment"] == experiment
        and all(record.get(name) == value for name, value in about.items())
    ]


def newest(records: Sequence[Record]) -> list[Record]:
    """Keep, of records that differ only in the framework's version, those of the newest."""
    found: dict[tuple[object, ...], Record] = {}
    for record in records:
        key = tuple(record.get(n) for n in ("framework", "model", "batch", "method", "size", "who"))
        if key not in found or _version(record) > _version(found[key]):
            found[key] = record
    return list(found.values())


def grown(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Return our prices by framework and by what grows."""
    found: dict[tuple[str, str], list[Record]] = {}
    for row in newest(chosen(records, "growth", who=OURS)):
        found.setdefault((row["framework"], row["method"]), []).append(row)
    return found


def _version(record: Record) -> tuple[int, ...]:
    return tuple(int(part) for part in (record.get("version") or "0").split("."))
