"""Evaluation mode for the length of a run, shared by threads that run the same modules."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from torch import nn

HOOKS = Lock()
"""Held while hooks are hung or taken off: PyTorch numbers them from a counter without a lock."""

_lock = Lock()
_held: dict[nn.Module, tuple[int, bool]] = {}


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Clear the training flag of a module and all inside it, and put every flag back at the end.

    The first of several runs remembers the flags and the last one restores them, module by
    module, so that runs in other threads, also of models that share a part, are not disturbed.
    Flags are set one by one: `train()` and `eval()` may be overridden.
    """
    modules = list(module.modules())
    with _lock:
        for part in modules:
            users, flag = _held.get(part, (0, part.training))
            _held[part] = users + 1, flag
            if not users and flag:
                part.training = False
    try:
        yield
    finally:
        with _lock:
            for part in modules:
                users, flag = _held.pop(part)
                if users > 1:
                    _held[part] = users - 1, flag
                elif flag:
                    part.training = True
