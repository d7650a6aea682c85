"""Evaluation mode for the length of a run, shared by threads that run the same modules.

PyTorch's fused encoder layers are off meanwhile: they would hide the operations of a block, and
only of those before the layer, since they need the gradient to be off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch
from torch import nn

HOOKS = Lock()
"""Held while hooks are hung or taken off: PyTorch numbers them from a counter without a lock."""

_lock = Lock()
_held: dict[nn.Module, tuple[int, bool]] = {}
_fused: list[bool] = []
"""PyTorch's own setting, once for each run that is going on."""


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Clear the training flag of a module and all inside it, and put every flag back at the end.

    The first of several runs remembers the flags and the last one restores them, module by
    module, so that runs in other threads, also of models that share a part, are not disturbed.
    Flags are set one by one: `train()` and `eval()` may be overridden.
    """
    modules = list(module.modules())
    with _lock:
        _fused.append(_fused[0] if _fused else torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        for part in modules:
            users, flag = _held.get(part, (0, part.training))
            _held[part] = users + 1, flag
            if not users and flag:
                part.training = False
    try:
        yield
    finally:
        with _lock:
            setting = _fused.pop()
            torch.backends.mha.set_fastpath_enabled(setting and not _fused)
            for part in modules:
                users, flag = _held.pop(part)
                if users > 1:
                    _held[part] = users - 1, flag
                elif flag:
                    part.training = True
