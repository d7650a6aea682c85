"""TorchScript as modules that Python runs, so that a run can be recorded and caught.

A ScriptModule runs in PyTorch's own interpreter, where neither hooks nor function modes act. Its
graphs are read once and run node by node, each module of the program as a module, on the very
weights of the program.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from gradcam_multi.errors import UnsupportedError

Values = dict[str, Any]
Act = Callable[..., Sequence[Any]]
Step = tuple["Act | Nested", tuple[str, ...], tuple[str, ...]]
WAYS = "hand over the torch.nn.Module that it was made from, or its ONNX export"

# Functions that train where their argument of this position is true.
TRAINING = {"aten::batch_norm": 5, "aten::dropout": 2, "aten::dropout_": 2}
PLAIN: dict[str, Act] = {
    "prim::ListConstruct": lambda *items: [list(items)],
    "prim::TupleConstruct": lambda *items: [items],
    "prim::DictConstruct": lambda *items: [dict(zip(items[::2], items[1::2], strict=True))],
    "prim::ListUnpack": tuple,
    "prim::TupleUnpack": tuple,
    "prim::TupleIndex": lambda items, index: [items[index]],
    "prim::unchecked_cast": lambda value: [value],
    "prim::unchecked_unwrap_optional": lambda value: [value],
    "aten::_unwrap_optional": lambda value: [value],
    "prim::Uninitialized": lambda: [None],
    "prim::NumToTensor": lambda value: [torch.tensor(value)],
    "aten::Int": lambda value: [int(value)],
    "aten::Float": lambda value: [float(value)],
    "aten::Bool": lambda value: [bool(value)],
    "aten::ScalarImplicit": lambda value: [value.item()],
    "aten::IntImplicit": lambda value: [int(value)],
    "aten::FloatImplicit": lambda value: [float(value)],
}
"""What moves values about; everything else is one of PyTorch's operators, or refused."""

CONTAINERS: dict[str, Callable[..., Any]] = {
    "aten::len": len,
    "aten::__getitem__": lambda items, index: items[index],
    "aten::__contains__": lambda items, item: item in items,
    "aten::__is__": lambda one, other: one is other,
    "aten::__isnot__": lambda one, other: one is not other,
    "aten::append": lambda items, item: items.append(item) or items,
    "aten::_set_item": lambda items, index, item: items.__setitem__(index, item) or items,
    "aten::add": lambda one, other: one + other,
    "aten::mul": lambda items, count: items * count,
    "aten::slice": lambda items, start, stop, step: items[start:stop:step],
    "aten::list": list,
    "aten::copy": list,
    "aten::keys": lambda items: list(items),
    "aten::values": lambda items: list(items.values()),
    "aten::items": lambda items: list(items.items()),
}
"""The same of Python's own containers and None, which PyTorch's operators do not take."""


@dataclass(frozen=True, slots=True)
class Code:
    """A block of a graph: the values that it takes, its steps, the values that it gives."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def run(self, values: Values, given: Sequence[Any]) -> list[Any]:
        """Run every step; `values` holds what the blocks around this one have computed."""
        values.update(zip(self.inputs, given, strict=True))
        for act, inputs, outputs in self.steps:
            read = [values[name] for name in inputs]
            made = act.run(values, read) if isinstance(act, Nested) else act(*read)
            values.update(zip(outputs, made, strict=True))
        return [values[name] for name in self.outputs]


@dataclass(frozen=True, slots=True)
class Nested:
    """An If or a Loop: blocks that read the values around them."""

    loop: bool
    blocks: tuple[Code, ...]

    def run(self, values: Values, read: list[Any]) -> list[Any]:
        """Run the block that is due, as often as it is."""
        if not self.loop:
            return self.blocks[0 if read[0] else 1].run(values, [])
        most, goes_on, *carried = read
        turn = 0
        while goes_on and turn < most:
            goes_on, *carried = self.blocks[0].run(values, [turn, *carried])
            turn += 1
        return carried


class Scripted(nn.Module):  # type: ignore[misc]  # types are checked without torch
    """A module of a TorchScript program."""

    def __init__(self, script: Any) -> None:
        super().__init__()
        self.training = getattr(script, "training", False)  # a frozen program has none
        self._program = script._c
        # The program's own tensors: its parameters are no nn.Parameter.
        for name, tensor in script.named_parameters(recurse=False):
            self.register_buffer(name, tensor)
        for name, tensor in script.named_buffers(recurse=False):
            self.register_buffer(name, tensor)
        for name, child in script.named_children():
            self.add_module(name, mirror(child))
        if script._c._get_forward_hooks() or script._c._get_forward_pre_hooks():
            raise UnsupportedError(
                f"the TorchScript module {script.original_name} has hooks of its own; {WAYS}"
            )
        self._codes: dict[str, Code] = {}
        if script._c._has_method("forward"):
            self.code("forward")
            arguments = script._c._get_method("forward").schema.arguments[1:]
            self._signature = inspect.Signature([_parameter(each) for each in arguments])
            self.forward = _signed(self.run, self._signature)

    def code(self, method: str) -> Code:
        """Return a method's graph as steps; read once."""
        if method not in self._codes:
            self._codes[method] = _code(self._program._get_method(method).graph)
        return self._codes[method]

    def run(self, *args: Any, method: str = "forward", **kwargs: Any) -> Any:
        """Run a method on positional arguments, or `forward` on named ones too."""
        if method == "forward":
            bound = self._signature.bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
        return self.code(method).run({}, (self, *args))[0]

    def attribute(self, name: str) -> Any:
        """Return an attribute: a weight, a module inside, or a constant of the program."""
        own = {"training", *self._buffers, *self._modules}
        return getattr(self, name) if name in own else self._program.getattr(name)


def mirror(script: Any) -> nn.Module:
    """Return a ScriptModule as a module of Python's, sharing its weights.

    Raises UnsupportedError, by name, for what a program may hold and this cannot run.
    """
    qualified = script._c._type().str()
    place = "torch.nn.scripted" if ".torch.nn." in qualified else __name__
    return _kind(script.original_name, place)(script)


@cache
def _kind(name: str, place: str) -> type[Scripted]:
    """A class that goes by the name that the module's class has in Python."""
    return type(name, (Scripted,), {"__module__": place})


def _parameter(argument: Any) -> inspect.Parameter:
    default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
    return inspect.Parameter(
        argument.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default
    )


def _signed(function: Callable[..., Any], signature: inspect.Signature) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    forward.__signature__ = signature  # type: ignore[attr-defined]  # functions take it
    return forward


def _code(block: Any) -> Code:
    """Read a graph or a block of one."""
    steps = tuple(
        (_act(node), _names(_read(node)), _names(node.outputs())) for node in block.nodes()
    )
    return Code(_names(block.inputs()), steps, _names(block.outputs()))


def _names(values: Any) -> tuple[str, ...]:
    return tuple(value.debugName() for value in values)


def _read(node: Any) -> list[Any]:
    inputs = list(node.inputs())
    if node.kind() != "prim::CallFunction":
        return inputs
    # Behind the function itself; what is given twice is read once, see `_function`.
    return list({value.debugName(): value for value in inputs[1:]}.values())


def _act(node: Any) -> Act | Nested:
    """Return what a node does to the values that it reads."""
    kind = node.kind()
    if kind in PLAIN:
        return PLAIN[kind]
    if kind == "prim::Constant":
        value = node.output().toIValue()
        return lambda: [value]
    if kind in ("prim::GetAttr", "prim::CallMethod"):
        name = node.s("name")
        return _attribute(name) if kind == "prim::GetAttr" else _method(name)
    if kind == "prim::CallFunction":
        called = _code(_function(node))
        return lambda *args: called.run({}, args)
    if kind == "prim::RaiseException":
        return _raise
    if kind in ("prim::If", "prim::Loop"):
        return Nested(kind == "prim::Loop", tuple(map(_code, node.blocks())))
    return _operator(node)


def _attribute(name: str) -> Act:
    return lambda owner: [
        owner.attribute(name) if isinstance(owner, Scripted) else getattr(owner, name)
    ]


def _method(name: str) -> Act:
    def act(owner: Any, *args: Any) -> Sequence[Any]:
        if name == "forward":
            return [owner(*args)]
        if isinstance(owner, Scripted):
            return [owner.run(*args, method=name)]
        return [getattr(owner, name)(*args)]

    return act


def _raise(words: str, *_: Any) -> Sequence[Any]:
    raise RuntimeError(words)


def _function(node: Any) -> Any:
    """Return the graph of the function that a node calls: the call alone, inlined."""
    graph = torch._C.Graph()
    function = next(iter(node.inputs()))
    named = graph.insertNode(graph.createClone(function.node(), lambda value: value))
    inner = {function.debugName(): named.output()}
    for value in _read(node):
        inner[value.debugName()] = graph.addInput()
        inner[value.debugName()].setType(value.type())
    call = graph.insertNode(graph.createClone(node, lambda value: inner[value.debugName()]))
    for value in call.outputs():
        graph.registerOutput(value)
    torch._C._jit_pass_inline(graph)
    return graph


def _operator(node: Any) -> Act:
    """Return one of PyTorch's operators, its overload chosen by the node's own schema."""
    kind = node.kind()
    try:
        schema = torch._C.parse_schema(node.schema())
        if kind in CONTAINERS and not _of_tensors(schema):
            plain = CONTAINERS[kind]
            count = len(schema.returns)
            return lambda *args: [plain(*args)][:count]
        space, _, name = kind.partition("::")
        function = getattr(getattr(torch.ops, space), name)
        function = getattr(function, schema.overload_name or "default")
    except (RuntimeError, AttributeError) as error:
        raise UnsupportedError(
            f"the TorchScript program holds {kind}, which cannot be run step by step; {WAYS}"
        ) from error
    split = sum(not argument.kwarg_only for argument in schema.arguments)
    keywords = [argument.name for argument in schema.arguments[split:]]
    count = len(schema.returns)
    flag = TRAINING.get(kind)

    def act(*args: Any) -> Sequence[Any]:
        if flag is not None and args[flag]:
            raise UnsupportedError(
                f"the TorchScript program runs {kind} in training mode: call eval() on the module, "
                "and trace or script it again"
            )
        made = function(*args[:split], **dict(zip(keywords, args[split:], strict=True)))
        return [made] if count == 1 else made or []

    return act


def _of_tensors(schema: Any) -> bool:
    """Whether an operator works on tensors or numbers, not on containers or any object."""
    return schema.arguments[0].type.kind() in ("TensorType", "IntType", "FloatType", "NumberType")
