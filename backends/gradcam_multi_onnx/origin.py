"""Which module of the exported program a node comes from, where its exporter wrote that down."""

import re

from onnx import NodeProto

_SCOPES = "pkg.torch.onnx.name_scopes"  # of torch's exporter: "['', 'layer1', ..., 'conv2d']"
_NAMESPACE = "namespace"  # the same with classes: ": M/layer1: Sequential/conv2d: aten.conv2d"
_LONGEST = 10_000  # characters of an entry that are read


def origin_of(node: NodeProto, producer: str) -> str | None:
    """Return the path of a node's module, or None where the exporter, `producer`, left none.

    `layer1.0.conv1` for PyTorch's exporters, as in `named_modules`; `block1/conv1` for tf2onnx.
    """
    notes = {
        entry.key: entry.value[:_LONGEST]
        for entry in node.metadata_props
        if entry.key in (_SCOPES, _NAMESPACE) and isinstance(entry.value, str)
    }
    if _SCOPES in notes:
        scopes = re.findall(r"['\"]([^'\"]*)['\"]", notes[_SCOPES])
        return scopes[-2] or None if len(scopes) > 1 else None  # the last is the operation
    if _NAMESPACE in notes:
        parts = [part.partition(": ")[0] for part in notes[_NAMESPACE].split("/")]
        return parts[-2] or None if len(parts) > 1 else None
    parts = node.name[:_LONGEST].split("/")
    if producer == "pytorch" and not parts[0]:
        return _joined(parts[1:-1]) or None
    if producer == "tf2onnx":
        return "/".join(part for part in parts[:-1] if part != "StatefulPartitionedCall") or None
    return None


def _joined(parts: list[str]) -> str:
    """Join attribute names; those of a container's items repeat the container: `a/a.0`."""
    path: list[str] = []
    for part in parts:
        if path and part.startswith(path[-1] + "."):
            path.pop()
        path.append(part)
    return ".".join(path)
