"""Catching tensors in a run: hooks and a function mode that act for one thread and one run."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradcam_multi_torch import trees
from gradcam_multi_torch.guard import HOOKS
from gradcam_multi_torch.recording import Place
from gradcam_multi_torch.roles import function_name


@dataclass(frozen=True, slots=True)
class Watch:
    """What to do at a place: `result` may exchange the tensor made, `operand` sees what it reads.

    `operand` is called with the first tensor read and with the one made, and only for functions.
    """

    place: Place
    result: Callable[[Tensor], Tensor] | None = None
    operand: Callable[[Tensor, Tensor], None] | None = None
    in_place: bool = False


@contextmanager
def watching(root: nn.Module, watches: Sequence[Watch]) -> Iterator[None]:
    """Hang watches on a module and its parts, and take them off again.

    A module's own result is caught by a hook. A function's result needs a mode, which slows every
    call of a function a little: it is pushed only while the module that calls it runs.
    """
    frames: dict[tuple[str, int], list[Watch]] = {}
    handles: list[Any] = []
    pushed: list[TorchFunctionMode] = []
    try:
        with HOOKS:
            for watch in watches:
                if watch.place.function is not None:
                    key = (watch.place.module, watch.place.call)
                    frames.setdefault(key, []).append(watch)
                elif watch.result is not None:
                    part = root.get_submodule(watch.place.module)
                    hook = _result_hook(watch.place.call, watch.result)
                    handles.append(part.register_forward_hook(hook, prepend=True))
            for (path, call), group in frames.items():
                part = root.get_submodule(path)
                enter, leave = _frame_hooks(call, _Interceptor(group), pushed)
                handles.append(part.register_forward_pre_hook(enter, prepend=True))
                handles.append(part.register_forward_hook(leave, prepend=part is not root))
        yield
    finally:
        while pushed:  # a module raised before it could be left
            pushed.pop().__exit__(None, None, None)
        with HOOKS:
            for handle in handles:
                handle.remove()


def _result_hook(call: int, result: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    thread, calls = get_ident(), 0

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        if get_ident() != thread:
            return None
        calls += 1
        if calls != call or not isinstance(output, Tensor):
            return None
        with torch._C.DisableTorchFunction():
            return result(output)

    return hook


def _frame_hooks(
    call: int, mode: TorchFunctionMode, pushed: list[TorchFunctionMode]
) -> tuple[Callable[..., None], Callable[..., None]]:
    thread, calls = get_ident(), 0
    running: list[int] = []  # a module may call itself

    def enter(*_: Any) -> None:
        nonlocal calls
        if get_ident() == thread:
            calls += 1
            running.append(calls)
            if calls == call:
                mode.__enter__()
                pushed.append(mode)

    def leave(*_: Any) -> None:
        if get_ident() == thread and running.pop() == call:
            pushed.pop().__exit__(None, None, None)

    return enter, leave


class _Interceptor(TorchFunctionMode):  # type: ignore[misc]  # types are checked without torch
    def __init__(self, watches: Sequence[Watch]) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.watched: dict[str, list[Watch]] = {}
        for watch in watches:
            self.watched.setdefault(watch.place.function or "", []).append(watch)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = function_name(func)
        if name not in self.watched:
            return func(*args, **kwargs)
        self.counts[name] += 1
        due = [w for w in self.watched[name] if w.place.count == self.counts[name]]
        if not due:
            return func(*args, **kwargs)
        read = next((tensor for _, tensor in trees.tensors((args, kwargs))), None)
        if read is not None and any(watch.operand and watch.in_place for watch in due):
            read = read.clone()
        made = func(*args, **kwargs)
        for watch in due:
            # What is written to without being returned (x[:, 0] = ...) is the first operand.
            tensor = args[0] if made is None else _item(made, watch.place.index)
            if not isinstance(tensor, Tensor):
                continue
            if watch.operand is not None and read is not None:
                watch.operand(read, tensor)
            if watch.result is not None:
                new = watch.result(tensor)
                made = None if made is None else trees.swap(made, watch.place.index, new)
        return made


def _item(made: Any, index: int) -> Any:
    return made if isinstance(made, Tensor) else made[index]
