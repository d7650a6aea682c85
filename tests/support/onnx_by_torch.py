"""Small ONNX graphs computed by PyTorch in float64, node by node: slow, obvious, differentiable.

Knows the operators of the light zoo models and nothing else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

Attributes = Mapping[str, Any]


def _padded(x: Tensor, a: Attributes, fill: float) -> Tensor:
    pads = a.get("pads", [0, 0, 0, 0])
    return F.pad(x, (pads[1], pads[3], pads[0], pads[2]), value=fill)


def _conv(a: Attributes, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    return F.conv2d(
        _padded(x, a, 0.0), w, b, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1)
    )


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    return F.max_pool2d(_padded(x, a, -torch.inf), a["kernel_shape"], a.get("strides", 1))


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, strides = a["kernel_shape"], a.get("strides", 1)
    total = F.avg_pool2d(_padded(x, a, 0.0), kernel, strides)
    counted = F.avg_pool2d(
        _padded(torch.ones_like(x), a, float(a.get("count_include_pad", 0))), kernel, strides
    )
    return total / counted


def _norm(a: Attributes, x: Tensor, *parts: Tensor) -> Tensor:
    scale, bias, mean, var = (part[:, None, None] for part in parts)
    return (x - mean) / (var + a.get("epsilon", 1e-5)).sqrt() * scale + bias


def _gemm(a: Attributes, x: Tensor, w: Tensor, c: Tensor) -> Tensor:
    left = x.T if a.get("transA", 0) else x
    right = w.T if a.get("transB", 0) else w
    return a.get("alpha", 1.0) * left @ right + a.get("beta", 1.0) * c


def _lrn(a: Attributes, x: Tensor) -> Tensor:
    half, squares = (a["size"] - 1) // 2, x * x
    padded = F.pad(squares, (0, 0, 0, 0, half, a["size"] - 1 - half))
    window = sum(padded[:, i : i + x.shape[1]] for i in range(a["size"]))
    return x / (a.get("bias", 1.0) + a["alpha"] / a["size"] * window) ** a["beta"]


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape.long().tolist())])


def _softmax(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)  # before opset 13 everything from the axis on is one
    return x.flatten(axis).softmax(-1).reshape(x.shape)


def _unsqueeze(a: Attributes, x: Tensor) -> Tensor:
    for axis in sorted(a["axes"]):
        x = x.unsqueeze(axis)
    return x


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "AveragePool": _average_pool,
    "BatchNormalization": _norm,
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Conv": _conv,
    "Dropout": lambda a, x: x,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "LRN": _lrn,
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "Relu": lambda a, x: x.relu(),
    "Reshape": _reshape,
    "Softmax": _softmax,
    "Sum": lambda a, *parts: sum(parts),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
}


def _decided(kind: str, x: Tensor, names: Sequence[str], at: Mapping[str, Any]) -> Tensor:
    """Return `x` with the value where the derivative of a kink is to be taken, if it is known."""
    before, after = names
    exact = x.detach()
    if kind == "Relu" and after in at:
        y = torch.tensor(at[after].astype(np.float64))
        chosen = torch.where(y > 0, y, exact.clamp(max=0))
    elif kind in ("MaxPool", "Relu") and before in at:
        chosen = torch.tensor(at[before].astype(np.float64))
    else:
        return x
    # Rounding of float32 only: another value would hide an error.
    assert float((chosen - exact).abs().max()) <= 1e-4 * float(exact.abs().max())
    return x + (chosen - exact)


def computed(
    model: onnx.ModelProto, feeds: Mapping[str, Tensor], at: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return every value of a graph; those that feeds lead to carry gradients.

    `at` holds the values at which the derivative of a kink is to be taken.
    """
    values = {
        t.name: torch.tensor(onnx.numpy_helper.to_array(t).astype(np.float64))
        for t in model.graph.initializer
    }
    values |= feeds
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        given = [values[name] for name in node.input]
        names = (node.input[0], node.output[0])
        given[0] = _decided(node.op_type, given[0], names, at)
        values[node.output[0]] = OPERATORS[node.op_type](attributes, *given)
    return values
