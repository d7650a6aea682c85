"""The networks in PyTorch, and their ONNX files with a free batch."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from networks import SIDE, Program, normal, program_of
from torch import Tensor, nn
from torch.nn import functional as F

ACTS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True), "relu6": lambda: nn.ReLU6(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True), "sigmoid": nn.Sigmoid, "gelu": nn.GELU,
}  # fmt: skip


class Parameter(nn.Module):
    """An array that is learned, as a layer of its own."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.from_numpy(value))


class TorchOps(nn.Module):
    """A program as a module; its layers are `parts`, by the names that the program gives."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.parts = nn.ModuleDict()
        with torch.no_grad():
            program(self, None)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.program(self, x)
        return out

    def _part(self, name: str, make: Callable[[], nn.Module], x: Any) -> Any:
        if x is None:
            self.parts[name] = make()
            return None
        return self.parts[name](x)

    def conv(
        self, x: Any, name: str, sizes: tuple[int, int], kernel: int = 1, *, stride: int = 1,
        groups: int = 1, bias: bool = True, pad: bool = True,
    ) -> Any:  # fmt: skip
        def make() -> nn.Module:
            padding = kernel // 2 if pad else 0
            layer = nn.Conv2d(*sizes, kernel, stride, padding, groups=groups, bias=bias)
            return _filled(layer, name, 2.0)

        return self._part(name, make, x)

    def dense(self, x: Any, name: str, inputs: int, outputs: int) -> Any:
        return self._part(name, lambda: _filled(nn.Linear(inputs, outputs), name, 1.0), x)

    def norm(self, x: Any, name: str, channels: int) -> Any:
        return self._part(name, lambda: _shifted(nn.BatchNorm2d(channels), name), x)

    def layer_norm(self, x: Any, name: str, channels: int) -> Any:
        return self._part(name, lambda: _shifted(nn.LayerNorm(channels, eps=1e-6), name), x)

    def act(self, x: Any, name: str, kind: str) -> Any:
        return self._part(name, ACTS[kind], x)

    def maxpool(self, x: Any, name: str, kernel: int, stride: int) -> Any:
        return self._part(name, lambda: nn.MaxPool2d(kernel, stride, (kernel - 1) // 2), x)

    def avgpool(self, x: Any, name: str, kernel: int) -> Any:
        return self._part(name, lambda: nn.AvgPool2d(kernel), x)

    def class_token(self, x: Any, name: str, width: int) -> Any:
        if x is None:
            self.parts[name] = Parameter(normal(name, (1, 1, width), 0.02))
            return None
        return torch.cat([self.parts[name].value.expand(x.shape[0], -1, -1), x], 1)

    def positions(self, x: Any, name: str, count: int, width: int) -> Any:
        if x is None:
            self.parts[name] = Parameter(normal(name, (1, count, width), 0.02))
            return None
        return x + self.parts[name].value

    def attention(self, x: Any, width: int, heads: int) -> Any:
        if x is None:
            return None
        q, k, v = x.unflatten(2, (3, heads, width // heads)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def tokens(self, x: Any, width: int) -> Any:
        return None if x is None else x.flatten(2).transpose(1, 2)

    def first(self, x: Any) -> Any:
        return None if x is None else x[:, 0]

    def mean(self, x: Any, keep: bool = False) -> Any:
        return None if x is None else x.mean((2, 3), keepdim=keep)

    def flatten(self, x: Any) -> Any:
        return None if x is None else x.flatten(1)

    def add(self, x: Any, y: Any) -> Any:
        return None if x is None else x + y

    def multiply(self, x: Any, y: Any) -> Any:
        return None if x is None else x * y

    def concat(self, x: Any, y: Any) -> Any:
        return None if x is None else torch.cat([x, y], 1)


def _filled(layer: Any, name: str, gain: float) -> nn.Module:
    shape = tuple(layer.weight.shape)
    scale = (gain / layer.weight[0].numel()) ** 0.5
    layer.weight.data = torch.from_numpy(normal(name, shape, scale))
    if layer.bias is not None:
        layer.bias.data = torch.from_numpy(normal(f"{name}_bias", shape[:1], 0.02))
    return layer  # type: ignore[no-any-return]


def _shifted(layer: Any, name: str) -> nn.Module:
    shape = tuple(layer.weight.shape)
    layer.weight.data = torch.from_numpy(1 + normal(f"{name}_scale", shape, 0.1))
    layer.bias.data = torch.from_numpy(normal(f"{name}_bias", shape, 0.1))
    return layer  # type: ignore[no-any-return]


def torch_network(name: str) -> nn.Module:
    return TorchOps(program_of(name))


def onnx_network(module: nn.Module, side: int = SIDE) -> bytes:
    """Return a module of one picture as ONNX, its batch free."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, 3, side, side),), stream, dynamo=False,
            opset_version=17, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
        )  # fmt: skip
    return stream.getvalue()
