"""ReLU's guided rule, for one thread and one run: no module, function or weight is touched.

What ReLU makes is its own; only its place in the recorded graph gets a hook, by which negative
gradients are dropped before ReLU's derivative is applied. The graph goes with its trace.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradcam_multi_torch.roles import plain_name

_CLIPS: dict[str, tuple[str, str]] = {
    "clamp": ("min", "max"),
    "clip": ("min", "max"),
    "hardtanh": ("min_val", "max_val"),
}
"""What clips at two bounds, and what these are called."""


class Guided(TorchFunctionMode):  # type: ignore[misc]  # types are checked without torch
    """While it is active, every ReLU and ReLU6 of this thread is guided; `met` counts them.

    They may be modules, functions or methods, in place or not; a clipping at 0 and 6 is ReLU6,
    which PyTorch itself and exporters write so. One at 0 alone is not taken for ReLU: variances
    are kept positive by it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.met = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        raw = getattr(func, "__name__", "")
        if not _rectifies(plain_name(raw), args, kwargs):
            return func(*args, **kwargs)
        self.met += 1
        x = args[0] if args else kwargs["input"]
        stated = kwargs.get("inplace") or (args[1:] and args[-1])
        in_place = raw.split(".")[0].endswith("_") or stated is True
        if not (in_place and x._is_view() and torch.is_grad_enabled() and x.requires_grad):
            return _guided(func(*args, **kwargs))
        # Written into a part of a tensor, ReLU would have its place in the graph under the whole
        # tensor: made apart and copied, it has one of its own.
        apart = {**kwargs, "input": x.clone()} if not args else kwargs
        made = func(*(x.clone(), *args[1:]) if args else (), **apart)
        return x.copy_(_guided(made))


def _rectifies(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name in ("relu", "relu6"):
        return True
    if name not in _CLIPS:
        return False
    bounds = [
        args[place] if len(args) > place else kwargs.get(key)
        for place, key in enumerate(_CLIPS[name], start=1)
    ]
    return not any(isinstance(bound, Tensor) for bound in bounds) and bounds == [0, 6]


def _guided(made: Tensor) -> Tensor:
    if made.requires_grad and made.grad_fn is not None:
        # The node's hook, not the tensor's: a gradient that is asked for with respect to the
        # result itself is the one that arrives there.
        made.grad_fn.register_prehook(_positive)
    return made


def _positive(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(None if g is None else g.clamp(min=0) for g in gradients)
