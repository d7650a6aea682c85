"""Class names: read from a file, and looked up."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from gradcam_multi.errors import TargetError, UnknownClassError, suggest


def read_labels(path: str | Path) -> list[str]:
    """Read class names in the order of their index.

    Takes a text file with a name a line, a CSV file with a column `name` (and perhaps `index`),
    or a JSON list, or a JSON object from index to name. Raises TargetError where it cannot.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return _from_json(json.loads(text))
        if path.suffix.lower() == ".csv":
            return _from_csv(text)
        return [line.strip() for line in text.splitlines() if line.strip()]
    except OSError as error:
        raise TargetError(f"labels {str(path)!r} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise TargetError(
            f"labels {str(path)!r} hold no class names: give a name a line, a CSV file with a "
            f"column 'name', or a JSON list of names ({error})"
        ) from error


def _from_json(data: object) -> list[str]:
    if isinstance(data, dict):
        return _in_order({int(index): str(name) for index, name in data.items()})
    if isinstance(data, list):
        return [str(name) for name in data]
    raise ValueError(f"the file holds a {type(data).__name__}")


def _from_csv(text: str) -> list[str]:
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or "name" not in rows[0]:
        raise ValueError(f"its columns are {', '.join(rows[0]) if rows else 'none'}")
    return _in_order({int(row.get("index", i)): row["name"] for i, row in enumerate(rows)})


def _in_order(names: dict[int, str]) -> list[str]:
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"the indices are not 0 to {len(names) - 1}, each once")
    return [names[index] for index in range(len(names))]


def find_label(name: str, labels: Sequence[str] | None) -> int:
    """Return the index of a class by its name, or by one of its comma-separated synonyms.

    Raises UnknownClassError where no class, or more than one, is called so.
    """
    if not labels:
        raise UnknownClassError(
            f"class {name!r} was asked for by name, but no labels were given: pass labels, or "
            "the class's index"
        )
    wanted = name.strip().casefold()
    whole = [i for i, label in enumerate(labels) if label.strip().casefold() == wanted]
    found = whole or [i for i, label in enumerate(labels) if wanted in _synonyms(label)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnknownClassError(
            f"class {name!r} was asked for; {len(found)} classes are called so "
            f"({', '.join(map(str, found[:5]))}): give the index"
        )
    words = {synonym for label in labels for synonym in _synonyms(label)}
    raise UnknownClassError(f"no class is called {name!r}{suggest(wanted, words)}")


def _synonyms(label: str) -> list[str]:
    return [part.strip().casefold() for part in label.split(",")]
