"""One run that writes down every operation: its name, what it reads, what it makes."""

from collections import Counter
from dataclasses import dataclass, field, replace
from threading import get_ident
from typing import Any
from weakref import ref

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from gradcam_multi.errors import UnsupportedError
from gradcam_multi.spec import Layer, TensorSpec
from gradcam_multi_torch import layout, trees
from gradcam_multi_torch.exported import Origins
from gradcam_multi_torch.guard import HOOKS
from gradcam_multi_torch.inputs import Arguments, batch_size, describe
from gradcam_multi_torch.layout import Channels
from gradcam_multi_torch.recording import (
    Operation,
    Output,
    Place,
    Recording,
    Step,
    name_steps,
    numbered,
)
from gradcam_multi_torch.roles import ACTIVATIONS, CUTS, function_name, role


def record(module: nn.Module, arguments: Arguments, origins: Origins | None = None) -> Recording:
    """Run a module once and describe what happened, without recording a graph.

    `origins` name the layers of an exported program. The caller sets evaluation mode and the
    gradient mode. Raises what the module raises.
    """
    recorder = _Recorder(module, arguments)
    args, kwargs = arguments
    handles: list[Any] = []
    try:
        with HOOKS:
            for part in recorder.paths:
                handles.append(part.register_forward_pre_hook(recorder.enter, prepend=True))
                # First, so that the user's own hooks see what a trace hands on; but what the
                # user hangs on the model itself is part of the model.
                inner = part is not module
                handles.append(part.register_forward_hook(recorder.leave, prepend=inner))
        with recorder:
            output = call(module, args, kwargs)
    finally:
        with HOOKS:
            for handle in handles:
                handle.remove()
    if origins is not None:
        origins.name(recorder.steps)
        recorder.calls.update(origins.calls)
    return recorder.finish(output)


def call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a module in eager mode, also one that was compiled in place."""
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return module._call_impl(*args, **kwargs) if compiled else module(*args, **kwargs)


@dataclass(slots=True)
class _Frame:
    """A module that is running."""

    module: nn.Module
    path: str
    call: int
    first: int  # steps before it was entered
    modes: int  # function modes that were active then
    after: tuple[str, int] | None = None  # the child that was left last
    functions: Counter[str] = field(default_factory=Counter)  # since then


@dataclass(slots=True)
class _Value:
    """A tensor that depends on the inputs. It may go when the model lets go of it.

    To hold the tensors of a whole run would take more memory than all explanations after it.
    """

    tensor: ref[torch.Tensor]
    shape: tuple[int, ...]
    step: int | None  # None for an input of the model
    channels: Channels


def _batch(known: list[_Value], rank: int) -> int | None:
    """Where the batch is in the first operand of this rank for which that is known."""
    batches = (v.channels.batch for v in known if len(v.shape) == rank)
    return next((batch for batch in batches if batch is not None), None)


class _Recorder(TorchFunctionMode):  # type: ignore[misc]  # types are checked without torch
    def __init__(self, module: nn.Module, arguments: Arguments) -> None:
        super().__init__()
        self.paths = {part: path for path, part in module.named_modules()}
        self.calls: Counter[str] = Counter(dict.fromkeys(self.paths.values(), 0))
        self.frames: list[_Frame] = []
        self.steps: list[Step] = []
        self.values: dict[int, _Value] = {}
        self.thread = get_ident()
        self.batch = batch_size(arguments)
        self.inputs = describe(module, arguments)
        for _, tensor in trees.floating(arguments):
            self._keep(tensor, None, layout.of_input(tensor.shape))

    # Module hooks: other threads may be running the same modules.

    def enter(self, module: nn.Module, *_: Any) -> None:
        if get_ident() != self.thread:
            return
        path = self.paths[module]
        self.calls[path] += 1
        modes = torch._C._len_torch_function_stack()
        self.frames.append(_Frame(module, path, self.calls[path], len(self.steps), modes))

    def leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        if get_ident() != self.thread:
            return None
        frame = self.frames.pop()
        while frame.module is not module:  # a module below it raised, and was caught
            frame = self.frames.pop()
        if not self.frames:
            return None
        outer = self.frames[-1]
        # A mode that the model has entered meanwhile must not be left in the wrong order.
        if outer.modes == torch._C._len_torch_function_stack():
            outer.after, outer.functions = (frame.path, frame.call), Counter()
        place = Place(frame.path, frame.call)
        if isinstance(output, torch.Tensor):
            return self._returned(frame, place, args, output)
        for number, (path, tensor) in enumerate(trees.floating(output)):
            value = self._known(tensor)
            if value is not None and value.step is not None:
                step = self.steps[value.step]
                step.others.append(f"{numbered(frame.path, frame.call)}:{path}")
                if number == 0 and value.step >= frame.first:
                    step.calls.append(place)
        return None

    def _returned(
        self, frame: _Frame, place: Place, args: Any, output: torch.Tensor
    ) -> torch.Tensor | None:
        kind = type(frame.module).__name__
        value = self._known(output)
        if value is None:
            known = self._operands(args)
            if known and output.is_floating_point():  # a module that Python cannot look into
                self._add(kind, "other", place, output, known, known[0].channels)
                self.steps[-1].returned(place)
            return None
        if value.step is not None and value.step >= frame.first:
            self.steps[value.step].returned(place)
            return None
        # Handed on unchanged (Identity, a dropout): a tensor of its own tells the two apart.
        with torch._C.DisableTorchFunction():
            output = output.view_as(output)
        self._add(kind, "identity", place, output, [value], value.channels)
        self.steps[-1].returned(place)
        return output

    # Functions.

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.frames:
            return func(*args, **kwargs)
        name = function_name(func)
        frame = self.frames[-1]
        frame.functions[name] += 1
        count = frame.functions[name]
        place = Place(frame.path, frame.call, name, count, after=frame.after)
        given = [tensor for _, tensor in trees.tensors((args, kwargs))]
        known = self._operands(given)
        before = [(tensor, tensor._version) for tensor in given if not tensor.is_inference()]
        result = func(*args, **kwargs)
        if not known:
            return result
        changed = [tensor for tensor, version in before if tensor._version != version]
        return self._called(func, args, kwargs, place, known, changed, result)

    def _called(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        place: Place,
        known: list[_Value],
        changed: list[torch.Tensor],
        result: Any,
    ) -> Any:
        name = place.function or ""
        frame = self.frames[-1]
        standard = type(frame.module).__module__.startswith("torch.nn.") and frame.path
        kind = type(frame.module).__name__ if standard else name
        source = next((v for v in known if v.channels.axis is not None), known[0])
        shape = source.shape
        edges = [] if name in CUTS else known
        what = role(name, len(known))
        last = (len(known[-1].shape), known[-1].channels) if len(known) > 1 else None
        changed_ids = {id(tensor) for tensor in changed}
        results = [result] if isinstance(result, torch.Tensor) else result
        items = results if isinstance(results, (tuple, list)) else []
        made: set[int] = set()
        for index, tensor in enumerate(items):
            if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
                continue
            if not tensor.numel():
                continue  # what a function returns beside its result for training only
            where = replace(place, index=index)
            in_place = id(tensor) in changed_ids
            if not in_place and self._known(tensor):
                if role(name) != "identity" or not name.endswith("dropout"):
                    continue  # a cast or copy that had nothing to do
                with torch._C.DisableTorchFunction():
                    result = tensor = tensor.view_as(tensor)
            made_as = (shape, source.channels), tuple(tensor.shape)
            axes = layout.follow(name, func, args, kwargs, *made_as, last)
            if axes.batch is None:
                axes = replace(axes, batch=_batch(known, tensor.ndim))
            self._add(kind, what, where, tensor, edges, axes, in_place)
            made.add(id(tensor))
        for tensor in changed:  # written to without being returned: x[:, 0] = ..., out=...
            if id(tensor) not in made and tensor.is_floating_point():
                axes = Channels(source.channels.axis if tensor.ndim == len(shape) else None)
                self._add(kind, role(name), place, tensor, edges, axes, True)
        return result

    # Bookkeeping.

    def _operands(self, tree: Any) -> list[_Value]:
        found = (self._known(tensor) for _, tensor in trees.tensors(tree))
        return [value for value in found if value is not None]

    def _known(self, tensor: torch.Tensor) -> _Value | None:
        value = self.values.get(id(tensor))  # an id may have been that of a tensor that is gone
        return value if value is not None and value.tensor() is tensor else None

    def _keep(self, tensor: torch.Tensor, step: int | None, channels: Channels) -> None:
        self.values[id(tensor)] = _Value(ref(tensor), tuple(tensor.shape), step, channels)

    def _add(
        self,
        kind: str,
        what: Any,
        place: Place,
        tensor: torch.Tensor,
        known: list[_Value],
        channels: Channels,
        in_place: bool = False,
    ) -> None:
        edges = dict.fromkeys(value.step for value in known if value.step is not None)
        self._keep(tensor, len(self.steps), channels)
        shape: tuple[int | None, ...] = tuple(tensor.shape)
        at = channels.batch or 0
        if at < len(shape) and shape[at] == self.batch:
            shape = (*shape[:at], None, *shape[at + 1 :])
        step = Step(kind, what, place, shape, channels.axis, tuple(edges), in_place, batch_axis=at)
        self.steps.append(step)

    def finish(self, output: Any) -> Recording:
        chosen, names = name_steps(self.steps, self.calls)
        outputs: list[Output] = []
        makers: dict[int, str] = {}
        for path, tensor in trees.floating(output):
            name = path or "output"
            value = self._known(tensor)
            step = None if value is None or value.step is None else self.steps[value.step]
            activation = ACTIVATIONS.get(step.place.function or "") if step else None
            shape = (None, *tensor.shape[1:]) if tensor.ndim else ()
            dtype = str(tensor.dtype).removeprefix("torch.")
            spec = TensorSpec(name, shape, dtype, activation=activation)
            stepped = step is not None and activation is not None
            outputs.append(
                Output(spec, step.place, step.in_place) if step and stepped else Output(spec)
            )
            if value is not None and value.step is not None:
                makers.setdefault(value.step, name)
        if not outputs:
            found = ", ".join(f"{n or 'output'} {t.dtype}" for n, t in trees.tensors(output))
            raise UnsupportedError(
                f"the model returned a {type(output).__name__} without a floating-point tensor "
                f"(found: {found or 'none'}); wrap it so that it returns its scores"
            )
        operations = tuple(
            Operation(
                Layer(
                    name=name,
                    kind=step.kind,
                    role=step.role,
                    shape=step.shape,
                    channel_axis=step.channel_axis,
                    inputs=tuple(chosen[edge] for edge in step.inputs),
                    output=makers.get(number),
                    source=step.owner or None,
                    batch_axis=step.batch_axis,
                ),
                step.caught or step.place,
                step.in_place,
                step.place,
            )
            for number, (name, step) in enumerate(zip(chosen, self.steps, strict=True))
        )
        calls = {path: count for path, count in self.calls.items() if path}
        return Recording(operations, names, self.inputs, tuple(outputs), calls)
