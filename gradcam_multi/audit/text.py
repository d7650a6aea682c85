"""An audit's summary in lines for a terminal."""

from typing import Any

WIDTH = 24  # of a class's name
MOST = 20  # classes that are shown
EXAMPLES = 3  # images that are named of each suggestion


def text_of(summary: dict[str, Any]) -> str:
    """Return the summary in lines: figures, a table of classes, what to look at first."""
    done, total = summary["done"], summary["pictures"]
    lines = [
        f"{done} of {total} pictures, {summary['failed']} failed; {summary['method']} of "
        f"{summary['model']}"
    ]
    told = {
        "accuracy": _percent(summary["accuracy"]),
        "peak in the box": _percent(summary["peak_in_box"]),
        "evidence in the box": _percent(summary["box_energy"]),
        "entropy": _number(summary["entropy"]),
    }
    lines.append("; ".join(f"{name} {value}" for name, value in told.items() if value != "-"))
    if summary["unknown_labels"]:
        some = ", ".join(map(repr, list(summary["unknown_labels"])[:3]))
        count = sum(summary["unknown_labels"].values())
        lines.append(f"{count} labels are no class of the model: {some}")
    lines += ["", *_table(summary["classes"])]
    if summary["first"]:
        lines += ["", "look at these first:"]
        for number, each in enumerate(summary["first"], 1):
            examples = ", ".join(image["path"] for image in each["images"][:EXAMPLES])
            lines += [f"{number:>3}. {each['what']}", f"     {examples}"]
    return "\n".join(lines)


def _table(classes: list[dict[str, Any]]) -> list[str]:
    seen = [each for each in classes if each["labelled"] or each["explained"]]
    # Where there are many, those that are right least often.
    shown = sorted(seen, key=lambda each: 2.0 if each["accuracy"] is None else each["accuracy"])
    shown = shown[:MOST] if len(seen) > MOST else seen
    head = f"{'class':{WIDTH}}  explained  labelled  accuracy  in box  border  corner  entropy"
    rows = [
        f"{each['name'][:WIDTH]:{WIDTH}}  {each['explained']:>9}  {each['labelled']:>8}  "
        f"{_percent(each['accuracy']):>8}  {_percent(each['peak_in_box']):>6}  "
        f"{_percent(each['border_energy']):>6}  "
        f"{_percent(each['largest_corner_energy']):>6}  {_number(each['entropy']):>7}"
        for each in shown
    ]
    more = [f"... and {len(seen) - len(shown)} more classes"] if len(seen) > len(shown) else []
    return [head, *rows, *more]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
