"""What ONNX's products and normalisations, and ONNX Runtime's fusions, compute by PyTorch's."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from rule_check import Case
from torch import Tensor
from torch_twins_windows import conv, per_channel


def gemm(n: Case, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if n.attributes.get("transA") else a
    b = b.T if n.attributes.get("transB") else b
    y = n.attributes.get("alpha", 1.0) * (a @ b)
    return y if c is None else y + n.attributes.get("beta", 1.0) * c


def fused_matmul(n: Case, a: Tensor, b: Tensor) -> Tensor:
    a = a.mT if n.attributes.get("transA") else a
    b = b.mT if n.attributes.get("transB") else b
    return n.attributes.get("alpha", 1.0) * (a @ b)


def batch_norm(n: Case, x: Tensor, *parts: Tensor) -> Tensor:
    scale, bias, mean, variance = parts
    epsilon = n.attributes.get("epsilon", 1e-5)
    if not mean.requires_grad:
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    scale, bias, mean, variance = (per_channel(part, x.ndim) for part in parts)
    return (x - mean) / (variance + epsilon).sqrt() * scale + bias


def layer_norm(
    n: Case, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    axis, epsilon = n.attributes.get("axis", -1) % x.ndim, n.attributes.get("epsilon", 1e-5)
    axes = tuple(range(axis, x.ndim))
    variance = x.var(axes, correction=0, keepdim=True)
    y = F.layer_norm(x, x.shape[axis:], scale.expand(x.shape[axis:]), bias, epsilon)
    return y, x.mean(axes, keepdim=True), (variance + epsilon).rsqrt()


def rms_norm(n: Case, x: Tensor, scale: Tensor) -> Tensor:
    axis = n.attributes.get("axis", -1) % x.ndim
    return F.rms_norm(x, x.shape[axis:], scale, n.attributes.get("epsilon", 1e-5))


def group_norm(n: Case, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, channels = n.attributes["num_groups"], x.shape[1]
    if n.opset < 21:  # one a group then, one a channel since
        scale, bias = (part.repeat_interleave(channels // groups) for part in (scale, bias))
    return F.group_norm(x, groups, scale, bias, n.attributes.get("epsilon", 1e-5))


def instance_norm(n: Case, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=n.attributes.get("epsilon", 1e-5))


def mean_variance(n: Case, x: Tensor) -> Tensor:
    axes = tuple(n.attributes.get("axes", [0, 2, 3]))
    deviation = (x.square().mean(axes, keepdim=True) - x.mean(axes, keepdim=True).square()).sqrt()
    return (x - x.mean(axes, keepdim=True)) / (deviation + 1e-9)


def lrn(n: Case, x: Tensor) -> Tensor:
    a = n.attributes
    return F.local_response_norm(
        x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1.0)
    )


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "Relu": torch.relu, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Clip": torch.clamp,
    "LeakyRelu": F.leaky_relu, "HardSigmoid": lambda x, a, b: F.hardtanh(a * x + b, 0, 1),
}  # fmt: skip


def fused_conv(
    n: Case, x: Tensor, w: Tensor, b: Tensor | None = None, more: Tensor | None = None
) -> Tensor:
    y = conv(n, x, w, b)
    y = y if more is None else y + more
    return ACTIVATIONS[n.attributes["activation"]](y, *n.attributes.get("activation_params", ()))


def fused_gemm(n: Case, *given: Tensor | None) -> Tensor:
    known = [f"activation_{name}" for name in ("alpha", "beta", "gamma")]
    parameters = [n.attributes[name] for name in known if name in n.attributes]
    return ACTIVATIONS[n.attributes["activation"]](gemm(n, *given), *parameters)


def skip_layer_norm(
    n: Case, x: Tensor, skip: Tensor, scale: Tensor, shift: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    total = x + skip if bias is None else x + skip + bias
    return layer_norm(n, total, scale, shift)[0]
