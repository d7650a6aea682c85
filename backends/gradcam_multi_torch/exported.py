"""Programs of torch.export: their graph as a module, and the modules that it was made from.

The graph runs as one module that calls PyTorch's functions, which a run records and catches as
those of any module. What the graph notes beside each function, the calls of modules that it was
traced in, gives layers the names that they have in the original.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from gradcam_multi.errors import UnsupportedError
from gradcam_multi.spec import TensorSpec
from gradcam_multi_torch.recording import Place, Step
from gradcam_multi_torch.roles import function_name


@dataclass(frozen=True, slots=True)
class Origin:
    """The module that called a function: its path, its kind where it is one of PyTorch's own, and
    the calls of modules that returned the function's result, the innermost first.
    """

    module: str
    kind: str | None
    returned: tuple[Place, ...]


class Origins:
    """What an exported graph knows of the modules that it was made from."""

    def __init__(self, graph: fx.Graph) -> None:
        self.calls: Counter[str] = Counter()
        self._origins: dict[tuple[str, int], Origin] = {}
        nodes = [node for node in graph.nodes if _is_operation(node)]
        stacks = {node: self._stack(node) for node in nodes}
        self._number(stacks.values())
        returned = self._returned(stacks)
        counts: Counter[str] = Counter()
        for node, stack in stacks.items():
            name = function_name(node.target)
            counts[name] += 1
            path, kind = stack[-1][1:] if stack else ("", "")
            standard = bool(path) and kind.startswith("torch.nn.")
            self._origins[name, counts[name]] = Origin(
                path, kind.rpartition(".")[2] if standard else None, tuple(returned[node])
            )

    def name(self, steps: Iterable[Step]) -> None:
        """Say of each step which module of the original it belongs to and which returned it."""
        for step in steps:
            place = step.place
            if place.module or place.function is None:
                continue  # inside a branch or loop, which is a module of its own
            origin = self._origins.get((place.function, place.count))
            if origin is not None:
                step.owner, step.kind = origin.module, origin.kind or step.kind
                if place.index == 0:
                    for call in origin.returned:
                        step.calls.append(call)

    @staticmethod
    def _stack(node: fx.Node) -> list[tuple[str, str, str]]:
        """(call, path, kind) of the modules that a function was called in, the outermost first."""
        noted = node.meta.get("nn_module_stack") or {}
        return [
            (key, path, kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}")
            for key, (path, kind) in noted.items()
        ]

    def _number(self, stacks: Iterable[Sequence[tuple[str, str, str]]]) -> None:
        self._places: dict[str, Place] = {}
        for stack in stacks:
            for key, path, _ in stack:
                if path and key not in self._places:
                    self.calls[path] += 1
                    self._places[key] = Place(path, self.calls[path])

    def _returned(
        self, stacks: dict[fx.Node, list[tuple[str, str, str]]]
    ) -> dict[fx.Node, list[Place]]:
        """For each function the calls of modules that hand its result, and no other, outside."""
        leaving: dict[str, list[fx.Node]] = {}
        for node, stack in stacks.items():
            outside = [{key for key, _, _ in self._stack(user)} for user in _users(node)]
            for key, path, _ in stack:
                if path and any(key not in keys for keys in outside):
                    leaving.setdefault(key, []).append(node)
        found: dict[fx.Node, list[Place]] = {node: [] for node in stacks}
        for node, stack in stacks.items():
            for key, _, _ in reversed(stack):
                if leaving.get(key) == [node]:
                    found[node].append(self._places[key])
        return found


def _is_operation(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload)


def _users(node: fx.Node) -> list[fx.Node]:
    """What reads a node; an item picked from a tuple counts for the tuple."""
    found = []
    for user in node.users:
        picks = user.op == "call_function" and function_name(user.target) == "getitem"
        found += _users(user) if picks else [user]
    return found


def origins(module: nn.Module) -> Origins | None:
    """Return what an exported program's graph knows, or None for a module of any other kind."""
    if isinstance(module, fx.GraphModule) and any(map(_is_operation, module.graph.nodes)):
        return Origins(module.graph)
    return None


def as_module(program: torch.export.ExportedProgram) -> nn.Module:
    """Return a program's graph as a module; raises UnsupportedError where it trains as it runs."""
    training = [node.name for node in program.graph.nodes if _trains(node)]
    training += program.graph_signature.buffers_to_mutate
    if training:
        raise UnsupportedError(
            f"the exported program was exported in training mode ({training[0]!r} changes with the "
            "batch or with chance): call eval() on the module, and export it again"
        )
    module: nn.Module = program.module()
    return module


def _trains(node: fx.Node) -> bool:
    if not _is_operation(node):
        return False
    names = [argument.name for argument in node.target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    return given.get("training", given.get("train")) is True


def inputs(program: torch.export.ExportedProgram) -> tuple[TensorSpec, ...]:
    """Describe what a program takes; an extent is None where the program leaves it free."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    given = [(name, values.get(name)) for name in program.graph_signature.user_inputs]
    return tuple(
        TensorSpec(
            name,
            tuple(extent if isinstance(extent, int) else None for extent in value.shape),
            str(value.dtype).removeprefix("torch."),
            "channels_first" if value.ndim >= 3 and value.is_floating_point() else None,
        )
        for name, value in given
        if isinstance(value, torch.Tensor)
    )
