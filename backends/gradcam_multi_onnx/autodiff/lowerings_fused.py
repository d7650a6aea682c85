"""ONNX Runtime's fused operators, found in files that it optimised, as the operators they fuse.

Their definitions are in its ContribOperators.md.
"""

from collections.abc import Sequence

import numpy as np

from gradcam_multi_onnx.autodiff.lowering import Parts
from gradcam_multi_onnx.autodiff.registry import lowering, refuse
from gradcam_multi_onnx.autodiff.windows import ATTRIBUTES as WINDOWS

DOMAIN = "com.microsoft"
_CONV = (*WINDOWS, "group")
_ACTIVATION = ("activation", "activation_params")
_PARAMETERS = {
    "HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",), "Elu": ("alpha",),
    "Relu": (), "Sigmoid": (), "Tanh": (),
}  # fmt: skip


def activated(n: Parts, value: str, name: str, parameters: Sequence[float]) -> str:
    """Write a fused activation, stated by name and its parameters in order."""
    if not name:
        return value
    if name == "Clip":
        return n.op("Clip", value, *(n.constant(bound) for bound in parameters))
    if name == "HardSwish":
        return n.op("HardSwish", value)
    if name not in _PARAMETERS:
        n.refuse(f"its activation {name!r} is not understood")
    stated = dict(zip(_PARAMETERS[name], map(float, parameters), strict=False))
    return n.op(name, value, **stated)


@lowering("FusedConv", attributes=(*_CONV, *_ACTIVATION), domain=DOMAIN)
def _fused_conv(n: Parts) -> None:
    y = n.op("Conv", n[0], n[1], n[2], **n.kept(_CONV))
    if n[3]:
        y = n.op("Add", y, n[3])
    n.give(activated(n, y, n.attribute("activation", ""), n.attribute("activation_params", ())))


@lowering("NhwcConv", "NhwcFusedConv", attributes=(*_CONV, *_ACTIVATION), domain=DOMAIN)
def _channels_last_conv(n: Parts) -> None:
    """Move the channels; the plain one's weight is channels last too, as its fusion writes it."""
    rank = n.rank(0)
    first, last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    weight = n.op("Transpose", n[1], perm=first) if n.node.op_type == "NhwcConv" else n[1]
    y = n.op("Conv", n.op("Transpose", n[0], perm=first), weight, n[2], **n.kept(_CONV))
    y = n.op("Transpose", y, perm=last)
    if n[3]:
        y = n.op("Add", y, n[3])
    n.give(activated(n, y, n.attribute("activation", ""), n.attribute("activation_params", ())))


_MATMUL = ("alpha", "transA", "transB", "transBatchA", "transBatchB")


@lowering("FusedMatMul", "TransposeMatMul", attributes=_MATMUL, domain=DOMAIN)
def _fused_matmul(n: Parts) -> None:
    factors = []
    for place, side in enumerate("AB"):
        rank, name = n.rank(place), n[place]
        if n.attribute(f"transBatch{side}", 0):
            n.refuse(f"its attribute 'transBatch{side}' is not understood")
        if n.attribute(f"trans{side}", 0) and rank > 1:
            name = n.op("Transpose", name, perm=[*range(rank - 2), rank - 1, rank - 2])
        factors.append(name)
    y = n.op("MatMul", *factors)
    alpha = n.attribute("alpha", 1.0)
    n.give(y if alpha == 1 else n.op("Mul", y, n.constant(alpha)))


_GEMM = ("alpha", "beta", "transA", "transB")


@lowering(
    "FusedGemm",
    attributes=(*_GEMM, "activation", "activation_alpha", "activation_beta", "activation_gamma"),
    domain=DOMAIN,
)
def _fused_gemm(n: Parts) -> None:
    stated = [n.attribute(f"activation_{name}") for name in ("alpha", "beta", "gamma")]
    y = n.op("Gemm", n[0], n[1], n[2], **n.kept(_GEMM))
    parameters = [value for value in stated if value is not None]
    n.give(activated(n, y, n.attribute("activation", ""), parameters))


def _erf_gelu(n: Parts, x: str) -> str:
    inner = n.op("Erf", n.op("Mul", x, n.constant(np.sqrt(0.5))))
    half = n.op("Mul", x, n.constant(0.5))
    return n.op("Mul", half, n.op("Add", inner, n.constant(1)))


def _tanh_gelu(n: Parts, x: str) -> str:
    cube = n.op("Mul", n.op("Mul", x, n.op("Mul", x, x)), n.constant(0.044715))
    inner = n.op("Tanh", n.op("Mul", n.op("Add", x, cube), n.constant(np.sqrt(2 / np.pi))))
    half = n.op("Mul", x, n.constant(0.5))
    return n.op("Mul", half, n.op("Add", inner, n.constant(1)))


@lowering("Gelu", domain=DOMAIN)
def _gelu(n: Parts) -> None:
    n.give(_erf_gelu(n, n[0]))


@lowering("BiasGelu", domain=DOMAIN)
def _bias_gelu(n: Parts) -> None:
    n.give(_erf_gelu(n, n.op("Add", n[0], n[1])))


@lowering("FastGelu", domain=DOMAIN)
def _fast_gelu(n: Parts) -> None:
    n.give(_tanh_gelu(n, n.op("Add", n[0], n[1]) if n[1] else n[0]))


@lowering("QuickGelu", attributes=("alpha",), domain=DOMAIN)
def _quick_gelu(n: Parts) -> None:
    scaled = n.op("Mul", n[0], n.constant(n.attribute("alpha", 1.702)))
    n.give(n.op("Mul", n[0], n.op("Sigmoid", scaled)))


@lowering("BiasAdd", domain=DOMAIN)
def _bias_add(n: Parts) -> None:
    n.give(n.op("Add", n.op("Add", n[0], n[1]), n[2]))


@lowering("SimplifiedLayerNormalization", attributes=("axis", "epsilon", "stash_type"))
def _simplified_normalization(n: Parts) -> None:
    axis = n.attribute("axis", -1) % n.rank(0)
    n.give(_rms(n, n[0], n[1], list(range(axis, n.rank(0)))))


def _rms(n: Parts, x: str, scale: str, axes: list[int]) -> str:
    square = n.op("ReduceMean", n.op("Mul", x, x), n.constant(axes, np.int64), keepdims=1)
    raised = n.op("Add", square, n.constant(n.attribute("epsilon", 1e-5)))
    return n.op("Mul", n.op("Div", x, n.op("Sqrt", raised)), scale)


def _skip(n: Parts, bias: int) -> str:
    total = n.op("Add", n[0], n[1])
    return n.op("Add", total, n[bias]) if n[bias] else total


@lowering("SkipLayerNormalization", attributes=("epsilon",), domain=DOMAIN)
def _skip_normalization(n: Parts) -> None:
    total = _skip(n, 4)
    epsilon = n.attribute("epsilon", 1e-12)
    y = n.op("LayerNormalization", total, n[2], n[3], epsilon=epsilon, axis=-1)
    _give_sum(n, y, total)


@lowering("SkipSimplifiedLayerNormalization", attributes=("epsilon",), domain=DOMAIN)
def _skip_simplified_normalization(n: Parts) -> None:
    total = _skip(n, 3)
    _give_sum(n, _rms(n, total, n[2], [n.rank(0) - 1]), total)


def _give_sum(n: Parts, y: str, total: str) -> None:
    # Mean and inverse deviation, the second and third results, belong to training.
    n.give(y, "mean", "inverse", total) if len(n.node.output) > 3 else n.give(y)


@lowering(
    "GroupNorm", attributes=("activation", "channels_last", "epsilon", "groups"), domain=DOMAIN
)
def _group_norm(n: Parts) -> None:
    """Normalise (N, H, W, C), where channels are last, and gate by a sigmoid where activated."""
    last = n.attribute("channels_last", 1)
    x = n.op("Transpose", n[0], perm=[0, 3, 1, 2]) if last else n[0]
    groups = n.attribute("groups")
    apart = n.op("Reshape", x, n.constant([0, groups, -1], np.int64))
    ones, zeros = n.constant(np.ones(groups)), n.constant(np.zeros(groups))
    epsilon = n.attribute("epsilon", 1e-5)
    unit = n.op("InstanceNormalization", apart, ones, zeros, epsilon=epsilon)
    y = n.op("Reshape", unit, n.op("Shape", x))
    axes = n.constant([1, 2], np.int64)
    scale, bias = n.op("Unsqueeze", n[1], axes), n.op("Unsqueeze", n[2], axes)
    y = n.op("Add", n.op("Mul", y, scale), bias)
    if n.attribute("activation", 0):
        y = n.op("Mul", y, n.op("Sigmoid", y))
    n.give(n.op("Transpose", y, perm=[0, 2, 3, 1]) if last else y)


refuse(
    "it is ONNX Runtime's own; save the model at optimisation level basic and explain that file",
    "Attention", "BiasDropout", "BiasSoftmax", "BiasSplitGelu", "GroupQueryAttention",
    "MultiHeadAttention", "PackedAttention", "QAttention", "SkipGroupNorm",
    domain=DOMAIN,
)  # fmt: skip
refuse(
    "its weights are laid out for one processor; export the model again or save it at "
    "optimisation level extended",
    "AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReorderInput",
    "ReorderOutput", "Upsample", domain="com.microsoft.nchwc",
)  # fmt: skip
