"""Finding a layer by a name that need not be its whole path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gradcam_multi.errors import UnknownLayerError


def resolve(name: str, nodes: Iterable[str], aliases: Mapping[str, str], title: str) -> str | None:
    """Return the listed name that a name, an alias or the end of one stands for, or None.

    Raises UnknownLayerError where several end so.
    """
    listed = list(nodes)
    if name in listed:
        return name
    if name in aliases:
        return aliases[name]
    ends = [other for other in (*listed, *aliases) if other.endswith(f"/{name}")]
    meant = dict.fromkeys(aliases.get(other, other) for other in ends)
    if len(meant) > 1:
        raise UnknownLayerError(
            f"{title} has {len(meant)} layers {name!r}; give one of them in full: "
            f"{', '.join(map(repr, ends[:4]))}"
        )
    return next(iter(meant), None)
