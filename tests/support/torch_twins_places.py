"""What ONNX's reductions and operators on shapes and places compute, by PyTorch's."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rule_check import Case
from torch import Tensor

Reduce = Callable[..., Tensor]


def axes_of(n: Case, given: Tensor | None) -> list[int] | None:
    """Axes, an attribute once and an input later."""
    return n.attributes.get("axes") if given is None else given.tolist()


def reduction(reduce: Reduce) -> Callable[..., Tensor]:
    """Make a twin of a function of (x, dim, keepdim)."""

    def twin(n: Case, x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = axes_of(n, given)
        if not axes and n.attributes.get("noop_with_empty_axes"):
            return x
        wanted = tuple(sorted(a % x.ndim for a in axes or range(x.ndim)))
        return reduce(x, wanted, bool(n.attributes.get("keepdims", 1)))

    return twin


def product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = x.prod(axis, keep)
    return x


def reshape(n: Case, x: Tensor, shape: Tensor) -> Tensor:
    whole = bool(n.attributes.get("allowzero"))
    sizes = shape.tolist()
    return x.reshape([x.shape[i] if m == 0 and not whole else m for i, m in enumerate(sizes)])


def flatten(n: Case, x: Tensor) -> Tensor:
    axis = n.attributes.get("axis", 1)
    return x.reshape(int(torch.tensor(x.shape[:axis]).prod()), -1)


def squeeze(n: Case, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = axes_of(n, given)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def unsqueeze(n: Case, x: Tensor, given: Tensor | None = None) -> Tensor:
    axes = axes_of(n, given)
    assert axes is not None
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def transpose(n: Case, x: Tensor) -> Tensor:
    return x.permute(n.attributes.get("perm", list(reversed(range(x.ndim)))))


def expand(n: Case, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, shape.tolist()))


def split(n: Case, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = n.attributes.get("axis", 0)
    stated = n.attributes.get("split") if sizes is None else sizes.tolist()
    if stated is not None:
        return torch.split(x, stated, axis)
    return torch.split(x, -(-x.shape[axis] // n.outputs), axis)


def tile(n: Case, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(repeats.tolist())


def slices(n: Case, x: Tensor, *given: Tensor | None) -> Tensor:
    """Rows by number: torch has no negative steps."""
    if n.opset < 10:
        starts, ends = n.attributes["starts"], n.attributes["ends"]
        axes, steps = n.attributes.get("axes"), None
    else:
        lists = [None if part is None else part.tolist() for part in given]
        starts, ends, axes, steps = (*lists, None, None)[:4]
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        rows = range(*slice(start, end, step).indices(x.shape[axis]))
        x = x.index_select(axis, torch.tensor(list(rows)))
    return x


def gather(n: Case, x: Tensor, places: Tensor) -> Tensor:
    axis = n.attributes.get("axis", 0)
    rows = x.index_select(axis, places.flatten() % x.shape[axis])
    return rows.reshape(*x.shape[:axis], *places.shape, *x.shape[axis:][1:])


def gather_elements(n: Case, x: Tensor, places: Tensor) -> Tensor:
    axis = n.attributes.get("axis", 0)
    return torch.gather(x, axis, places % x.shape[axis])


def gather_nd(n: Case, x: Tensor, places: Tensor) -> Tensor:
    batch = n.attributes.get("batch_dims", 0)
    if batch:
        inner = Case(n.op, n.inputs, attributes={"batch_dims": batch - 1})
        return torch.stack([gather_nd(inner, *pair) for pair in zip(x, places, strict=True)])
    return x[tuple(places.unbind(-1))]


_REDUCED = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_elements(n: Case, x: Tensor, places: Tensor, update: Tensor) -> Tensor:
    axis, how = n.attributes.get("axis", 0), n.attributes.get("reduction", "none")
    if how == "none":
        return x.scatter(axis, places, update)
    return x.scatter_reduce(axis, places, update, _REDUCED[how])


def scatter_nd(n: Case, x: Tensor, places: Tensor, update: Tensor) -> Tensor:
    """One slice after the other, as ONNX has it."""
    combine: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "none": lambda old, new: new, "add": torch.add, "mul": torch.mul, "max": torch.maximum,
        "min": torch.minimum,
    }  # fmt: skip
    assert places.ndim == 2
    for place, new in zip(places, update, strict=True):
        at = tuple(place)
        x = x.index_put(at, combine[n.attributes.get("reduction", "none")](x[at], new))
    return x


def top_k(n: Case, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, ...]:
    count = n.attributes["k"] if k is None else int(k)
    largest = bool(n.attributes.get("largest", 1))
    return tuple(torch.topk(x, count, n.attributes.get("axis", -1), largest))


def trilu(n: Case, x: Tensor, k: Tensor | None = None) -> Tensor:
    function = torch.triu if n.attributes.get("upper", 1) else torch.tril
    return function(x, 0 if k is None else int(k))


def compress(n: Case, x: Tensor, condition: Tensor) -> Tensor:
    axis = n.attributes.get("axis")
    x, axis = (x.flatten(), 0) if axis is None else (x, axis)
    return x.index_select(axis, condition.nonzero().flatten())


def reverse_sequence(n: Case, x: Tensor, lengths: Tensor) -> Tensor:
    batch, time = n.attributes["batch_axis"], n.attributes["time_axis"]
    assert {batch, time} == {0, 1}
    x = x.movedim(batch, 0)
    rows = [
        torch.cat([row[:m].flip(0), row[m:]]) for row, m in zip(x, lengths.tolist(), strict=True)
    ]
    return torch.stack(rows).movedim(0, batch)


def pad(n: Case, x: Tensor, *given: Any) -> Tensor:
    stated, value, axes = (*given, None, None, None)[:3]
    pads = n.attributes["pads"] if stated is None else stated.tolist()
    chosen = list(range(x.ndim)) if axes is None else axes.tolist()
    before, after = [0] * x.ndim, [0] * x.ndim
    for place, axis in enumerate(chosen):
        before[axis], after[axis] = pads[place], pads[len(chosen) + place]
    mode = n.attributes.get("mode", "constant")
    flat = [m for pair in zip(reversed(before), reversed(after), strict=True) for m in pair]
    if mode == "constant":
        filled = F.pad(x, flat)
        if value is None:
            return filled
        return filled + value * (1 - F.pad(torch.ones_like(x), flat))
    assert not any(flat[4:]), "torch pads two axes in these modes"
    own = {"edge": "replicate", "wrap": "circular", "reflect": "reflect"}[mode]
    return F.pad(x[None], flat[:4], own)[0]


def cumulative(n: Case, x: Tensor, axis: Tensor) -> Tensor:
    place = int(axis)
    x = x.flip(place) if n.attributes.get("reverse") else x
    y = x.cumsum(place)
    if n.attributes.get("exclusive"):
        y = torch.cat([torch.zeros_like(y.narrow(place, 0, 1)), y], place)
        y = y.narrow(place, 0, x.shape[place])
    return y.flip(place) if n.attributes.get("reverse") else y
