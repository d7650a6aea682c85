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

    `operand` is called with the first tensor read and with the one made, and `called` with all that
    a function was called with; both only for functions.
    """

    place: Place
    result: Callable[[Tensor], Tensor] | None = None
    operand: Callable[[Tensor, Tensor], None] | None = None
    in_place: bool = False
    called: Callable[[str, tuple[Any, ...], dict[str, Any]], None] | None = None


@contextmanager
def watching(root: nn.Module, watches: Sequence[Watch]) -> Iterator[None]:
    """Hang watches on a module and its parts, and take them off again.

    A module's own result is caught by a hook. A function's result needs a mode, which slows every
    call of a function: it is pushed as late as can be, when the child before the function is
    left, and popped when the module that calls the function is left.
    """
    frames: dict[tuple[str, int, tuple[str, int] | None], list[Watch]] = {}
    handles: list[Any] = []
    pushed: list[TorchFunctionMode] = []

    def hang(path: str, hook: Callable[..., Any], first: bool = True) -> None:
        handles.append(root.get_submodule(path).register_forward_hook(hook, prepend=first))

    try:
        with HOOKS:
            for watch in watches:
                place = watch.place
                if place.given is not None:
                    continue  # whoever calls the model hands it in
                if place.function is not None:
                    frames.setdefault((place.module, place.call, place.after), []).append(watch)
                elif watch.result is not None:
                    hang(place.module, _result_hook(place.call, watch.result))
            for (path, call, after), group in frames.items():
                frame = _Frame(call, _Interceptor(group), pushed, after[1] if after else None)
                part = root.get_submodule(path)
                handles.append(part.register_forward_pre_hook(frame.enter, prepend=True))
                if after:
                    hang(after[0], frame.left)
                hang(path, frame.leave, first=part is not root)
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


class _Frame:
    """The call of a module during which a mode is active, from its start or from a child's end."""

    def __init__(
        self, call: int, mode: TorchFunctionMode, pushed: list[TorchFunctionMode], child: int | None
    ) -> None:
        self.thread = get_ident()
        self.call, self.child = call, child
        self.mode, self.pushed = mode, pushed
        self.calls = self.children = 0
        self.running: list[int] = []  # a module may call itself
        self.active = False

    def enter(self, *_: Any) -> None:
        if get_ident() == self.thread:
            self.calls += 1
            self.running.append(self.calls)
            if self.calls == self.call and self.child is None:
                self._push()

    def left(self, *_: Any) -> None:
        if get_ident() == self.thread:
            self.children += 1
            if self.children == self.child and self.running and self.running[-1] == self.call:
                self._push()

    def leave(self, *_: Any) -> None:
        if get_ident() == self.thread and self.running.pop() == self.call and self.active:
            self.active = False
            self.pushed.pop().__exit__(None, None, None)

    def _push(self) -> None:
        self.active = True
        self.mode.__enter__()
        self.pushed.append(self.mode)


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
            if watch.called is not None:
                watch.called(name, args, kwargs)
            if watch.result is not None:
                new = watch.result(tensor)
                made = None if made is None else trees.swap(made, watch.place.index, new)
        return made


def _item(made: Any, index: int) -> Any:
    return made if isinstance(made, Tensor) else made[index]
