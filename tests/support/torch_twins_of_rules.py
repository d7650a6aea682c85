"""Ruled operators as functions of torch tensors, for gradients by torch.autograd.

A twin takes the node, as a `Case`, and its inputs in order, None where absent, in float64; it
returns the result, or all of them where there are several.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
import torch_twins_layers as layers
import torch_twins_places as places
import torch_twins_windows as windows
from numpy.typing import NDArray
from rule_check import Case
from torch import Tensor

Twin: TypeAlias = Callable[..., Tensor | tuple[Tensor, ...]]
MICROSOFT = "com.microsoft"


def of(function: Callable[..., Tensor], **defaults: float) -> Twin:
    """Make a twin of a function of tensors and of attributes, given with their defaults."""

    def twin(n: Case, *given: Tensor | None) -> Tensor:
        return function(*given, *(n.attributes.get(name, d) for name, d in defaults.items()))

    return twin


def clip(n: Case, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    low = n.attributes.get("min", low)
    high = n.attributes.get("max", high)
    return x.clone() if low is None and high is None else torch.clamp(x, low, high)


def softmax(function: Callable[[Tensor, int], Tensor]) -> Twin:
    def twin(n: Case, x: Tensor) -> Tensor:
        if n.opset >= 13:
            return function(x, n.attributes.get("axis", -1))
        axis = n.attributes.get("axis", 1)  # everything from the axis on is one
        return function(x.flatten(axis), -1).reshape(x.shape)

    return twin


def einsum(n: Case, *given: Tensor) -> Tensor:
    return torch.einsum(n.attributes["equation"], *given)


def gelu(n: Case, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=n.attributes.get("approximate", "none"))


def shrink(n: Case, x: Tensor) -> Tensor:
    return F.hardshrink(x, n.attributes.get("lambd", 0.5)) - n.attributes.get("bias", 0.0) * (
        (x.abs() > n.attributes.get("lambd", 0.5)) * x.sign()
    )


def fast_gelu(n: Case, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def norm(order: float) -> Twin:
    return places.reduction(
        lambda x, axes, keep: torch.linalg.vector_norm(x, order, dim=axes, keepdim=keep)
    )


_STANDARD: dict[str, Twin] = {
    **{
        name: of(function)
        for name, function in {
            "Abs": torch.abs,
            "Acos": torch.acos,
            "Acosh": torch.acosh,
            "Add": torch.add,
            "Asin": torch.asin,
            "Asinh": torch.asinh,
            "Atan": torch.atan,
            "Atanh": torch.atanh,
            "Cos": torch.cos,
            "Cosh": torch.cosh,
            "Div": torch.div,
            "Erf": torch.erf,
            "Exp": torch.exp,
            "HardSwish": F.hardswish,
            "Identity": torch.clone,
            "Log": torch.log,
            "MatMul": torch.matmul,
            "Mish": F.mish,
            "Mod": torch.fmod,
            "Mul": torch.mul,
            "Neg": torch.neg,
            "Pow": torch.pow,
            "Reciprocal": torch.reciprocal,
            "Relu": torch.relu,
            "Sigmoid": torch.sigmoid,
            "Sin": torch.sin,
            "Sinh": torch.sinh,
            "Softplus": F.softplus,
            "Softsign": F.softsign,
            "Sqrt": torch.sqrt,
            "Sub": torch.sub,
            "Tan": torch.tan,
            "Tanh": torch.tanh,
            "Where": torch.where,
        }.items()
    },
    "Cast": lambda n, x: x.clone(),
    "CastLike": lambda n, x, like: x.clone(),
    "Celu": of(F.celu, alpha=1.0),
    "Clip": clip,
    "Dropout": lambda n, x, *rest: x.clone(),
    "Elu": of(F.elu, alpha=1.0),
    "Gelu": gelu,
    "HardSigmoid": of(layers.ACTIVATIONS["HardSigmoid"], alpha=0.2, beta=0.5),
    "LeakyRelu": of(F.leaky_relu, alpha=0.01),
    "Max": lambda n, *parts: reduce(torch.maximum, parts),
    "Mean": lambda n, *parts: sum(parts) / len(parts),
    "Min": lambda n, *parts: reduce(torch.minimum, parts),
    "PRelu": lambda n, x, slope: torch.where(x > 0, x, slope * x),
    "Selu": lambda n, x: (
        n.attributes.get("gamma", 1.05070102214813232421875)
        * F.elu(x, n.attributes.get("alpha", 1.67326319217681884765625))
    ),
    "Shrink": shrink,
    "Sum": lambda n, *parts: sum(parts),
    "Swish": of(lambda x, alpha: x * torch.sigmoid(alpha * x), alpha=1.0),
    "ThresholdedRelu": of(lambda x, alpha: F.threshold(x, alpha, 0.0), alpha=1.0),
    "AveragePool": windows.average_pool,
    "Conv": windows.conv,
    "ConvTranspose": windows.conv_transpose,
    "DepthToSpace": windows.depth_to_space,
    "GlobalAveragePool": lambda n, x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalLpPool": windows.global_norm,
    "GlobalMaxPool": lambda n, x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "LpPool": windows.lp_pool,
    "MaxPool": windows.max_pool,
    "MaxUnpool": windows.max_unpool,
    "Resize": windows.resize,
    "SpaceToDepth": windows.space_to_depth,
    "Upsample": windows.resize,
    "BatchNormalization": layers.batch_norm,
    "Einsum": einsum,
    "Gemm": layers.gemm,
    "GroupNormalization": layers.group_norm,
    "InstanceNormalization": layers.instance_norm,
    "LRN": layers.lrn,
    "LayerNormalization": layers.layer_norm,
    "LogSoftmax": softmax(F.log_softmax),
    "LpNormalization": lambda n, x: F.normalize(
        x, n.attributes.get("p", 2), n.attributes.get("axis", -1)
    ),
    "MeanVarianceNormalization": layers.mean_variance,
    "RMSNormalization": layers.rms_norm,
    "SimplifiedLayerNormalization": layers.rms_norm,
    "Softmax": softmax(F.softmax),
    "ReduceL1": norm(1),
    "ReduceL2": norm(2),
    "ReduceLogSum": places.reduction(lambda x, axes, keep: x.sum(axes, keep).log()),
    "ReduceLogSumExp": places.reduction(torch.logsumexp),
    "ReduceMax": places.reduction(torch.amax),
    "ReduceMean": places.reduction(torch.mean),
    "ReduceMin": places.reduction(torch.amin),
    "ReduceProd": places.reduction(places.product),
    "ReduceSum": places.reduction(torch.sum),
    "ReduceSumSquare": places.reduction(lambda x, axes, keep: x.square().sum(axes, keep)),
    "Compress": places.compress,
    "Concat": lambda n, *parts: torch.cat(parts, n.attributes["axis"]),
    "CumSum": places.cumulative,
    "Expand": places.expand,
    "Flatten": places.flatten,
    "Gather": places.gather,
    "GatherElements": places.gather_elements,
    "GatherND": places.gather_nd,
    "Pad": places.pad,
    "Reshape": places.reshape,
    "ReverseSequence": places.reverse_sequence,
    "Scatter": places.scatter_elements,
    "ScatterElements": places.scatter_elements,
    "ScatterND": places.scatter_nd,
    "Slice": places.slices,
    "Split": places.split,
    "Squeeze": places.squeeze,
    "Tile": places.tile,
    "TopK": places.top_k,
    "Transpose": places.transpose,
    "Trilu": places.trilu,
    "Unsqueeze": places.unsqueeze,
}
_FUSED: dict[str, Twin] = {
    "BiasGelu": lambda n, x, bias: F.gelu(x + bias),
    "FastGelu": fast_gelu,
    "FusedConv": layers.fused_conv,
    "FusedGemm": layers.fused_gemm,
    "FusedMatMul": layers.fused_matmul,
    "Gelu": gelu,
    "QuickGelu": of(lambda x, alpha: x * torch.sigmoid(alpha * x), alpha=1.702),
    "SkipLayerNormalization": layers.skip_layer_norm,
    "SkipSimplifiedLayerNormalization": lambda n, x, skip, scale: layers.rms_norm(
        n, x + skip, scale
    ),
    "TransposeMatMul": layers.fused_matmul,
}
TWINS: dict[tuple[str, str], Twin] = {
    **{("", op): twin for op, twin in _STANDARD.items()},
    **{(MICROSOFT, op): twin for op, twin in _FUSED.items()},
}
"""By domain and operator."""

_NO_KERNEL = "ONNX Runtime has no kernel of it on a CPU that torch's result could be compared with"
_INTEGERS = "on integers torch has no gradient; its float twin is in tests/onnx"
WITHOUT: dict[tuple[str, str], str] = {
    ("", "CumProd"): _NO_KERNEL,
    **{(MICROSOFT, op): _NO_KERNEL for op in ("BiasAdd", "GroupNorm", "NhwcConv", "NhwcFusedConv")},
    **{
        ("", op): _INTEGERS
        for op in ("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger",
                   "QLinearConv", "QLinearMatMul", "QuantizeLinear")
    },
    **{
        (MICROSOFT, op): _INTEGERS
        for op in ("DequantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm",
                   "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
                   "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid",
                   "QLinearSoftmax", "QuantizeLinear")
    },
}  # fmt: skip
"""Ruled operators without a twin, and why."""


def by_torch(
    case: Case, values: dict[str, NDArray[Any]]
) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
    """Return a case's variable inputs as tensors that carry gradients, and the twin's results.

    Numbers in attributes are float32, as ONNX stores them.
    """
    attributes = {
        name: float(np.float32(value)) if isinstance(value, float) else value
        for name, value in case.attributes.items()
    }
    tensors: list[Tensor | None] = []
    for place, value in enumerate(case.inputs):
        tensor = torch.tensor(values.get(f"in{place}", value)) if value is not None else None
        if tensor is not None and tensor.is_floating_point():
            tensor = tensor.double().requires_grad_(place in case.wrt)
        tensors.append(tensor)
    results = TWINS[case.domain, case.op](replace(case, attributes=attributes), *tensors)
    variable = {f"in{i}": t for i, t in enumerate(tensors) if i in case.wrt and t is not None}
    return variable, (results,) if isinstance(results, Tensor) else results
