"""Which node reads and makes what, and the order in which nodes run."""

from heapq import heappop, heappush

import onnx
from onnx import NodeProto

from gradcam_multi.errors import ModelFileError


def subgraphs(node: NodeProto) -> list[onnx.GraphProto]:
    """Return the bodies that a control-flow node carries."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return bodies + [g for attribute in node.attribute for g in attribute.graphs]


def reads(node: NodeProto) -> tuple[str, ...]:
    """Return the values that a node reads, those captured by its bodies included."""
    names = [name for name in node.input if name]
    for body in subgraphs(node):
        made = {v.name for v in (*body.input, *body.initializer)}
        made |= {name for inner in body.node for name in inner.output}
        taken = [name for inner in body.node for name in reads(inner)]
        names += [n for n in (*taken, *(v.name for v in body.output)) if n not in made]
    return tuple(dict.fromkeys(names))


def sorted_nodes(graph: onnx.GraphProto, source: str) -> list[NodeProto]:
    """Return the nodes in an order of execution, the graph's own where it is one."""
    known = {v.name for v in (*graph.input, *graph.initializer)}
    known |= {v.values.name for v in graph.sparse_initializer}
    nodes = list(graph.node)
    waiting: dict[str, list[int]] = {}
    needs = [set(reads(node)) - known for node in nodes]
    for place, needed in enumerate(needs):
        for name in needed:
            waiting.setdefault(name, []).append(place)
    ready = [place for place, needed in enumerate(needs) if not needed]
    done = []
    while ready:
        node = nodes[place := heappop(ready)]
        done.append(node)
        for name in node.output:
            for reader in waiting.pop(name, ()):
                needs[reader].discard(name)
                if not needs[reader]:
                    heappush(ready, reader)
    if len(done) < len(nodes):
        late = next(place for place, needed in enumerate(needs) if needed)
        made = {name for node in nodes for name in node.output}
        missing = min(needs[late], key=lambda name: name in made)
        reason = "itself needs what it makes" if missing in made else "nothing makes"
        raise ModelFileError(
            f"{source} is damaged: {nodes[late].op_type} {nodes[late].name!r} reads {missing!r}, "
            f"which {reason}; export the model again"
        )
    return done
