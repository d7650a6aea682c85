"""PyTorch networks, their exports by both of its exporters, and autograd's word on gradients."""

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import architectures_torch
import numpy as np
import torch
from architectures_attention import ATTENTION
from architectures_classic import CLASSIC
from architectures_maps import MAPS
from architectures_mobile import MOBILE
from gradient_referee import Floats, Reference
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """How to build a network, the shape of an item, and the modules that make its feature maps."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 64, 64)
    early: str = "early"
    last: str = "last"


def _old(name: str, early: str, last: str) -> Network:
    return Network(getattr(architectures_torch, name), (3, 64, 64), early, last)


NETWORKS: dict[str, Network] = {
    "resnet50": _old("small_resnet", "maxpool", "layer2.1"),
    "vgg": _old("Vgg", "features.4", "features.11"),
    "mobilenet_v2": _old("MobileNet", "features.1", "features.4.2"),
    "densenet": _old("DenseNet", "features.pool0", "features.norm5"),
    "squeezenet": _old("SqueezeNet", "features.3", "features.12"),
    "inception": _old("Inception", "mixed1", "mixed2"),
    **{name: Network(build) for name, build in (CLASSIC | MOBILE | ATTENTION).items()},
    **{name: Network(build, shape) for name, (build, shape) in MAPS.items()},
}
"""All networks written in PyTorch, by name."""


def built(network: Network, seed: int = 0) -> nn.Module:
    """Return a network with random weights and statistics, nothing in place of another."""
    module = architectures_torch.seeded(network.build, seed=seed)
    for part in module.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    return module


def drawn(network: Network, count: int, seed: int = 0) -> Floats:
    """Return random inputs."""
    return np.random.default_rng(seed).normal(size=(count, *network.shape)).astype(np.float32)


def exported(network: Network, module: nn.Module, *, new: bool, static: bool = False) -> bytes:
    """Return a module as ONNX, by torch's new or old exporter; the batch is free unless static."""
    x = torch.zeros(1 if static else 2, *network.shape)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old exporter is called deprecated, tracing unsafe
        if new:
            free = None if static else ({0: torch.export.Dim("batch")},)
            program = torch.onnx.export(
                module, (x,), dynamo=True, verbose=False, dynamic_shapes=free
            )
            return program.model_proto.SerializeToString()
        with torch.no_grad():
            outputs = module(x)
        count = len(outputs) if isinstance(outputs, tuple) else 1
        names = ["x", *(f"y{index}" for index in range(count))]
        axes = None if static else {name: {0: "batch"} for name in names}
        torch.onnx.export(
            module, (x,), stream, dynamo=False, opset_version=17, input_names=names[:1],
            output_names=names[1:], dynamic_axes=axes,
        )  # fmt: skip
    return stream.getvalue()


class Autograd:
    """The referee: gradients of a module's logits at two of its parts and at the input."""

    def __init__(self, network: Network, module: nn.Module, dtype: torch.dtype = torch.float32):
        self.network, self.module, self.dtype = network, module.to(dtype), dtype

    def __call__(
        self, inputs: Floats, cotangent: Callable[[int, Floats], Floats],
        activations: Sequence[str | None],
    ) -> Reference:  # fmt: skip
        kept: dict[str, Tensor] = {}
        x = torch.tensor(inputs, dtype=self.dtype, requires_grad=True)
        hooks = [
            self.module.get_submodule(getattr(self.network, place)).register_forward_hook(
                self._keeper(kept, place)
            )
            for place in ("early", "last")
        ]
        try:
            outputs = self.module(x)
        finally:
            for hook in hooks:
                hook.remove()
        listed = outputs if isinstance(outputs, tuple) else (outputs,)
        score = torch.zeros((), dtype=self.dtype)
        for index, output in enumerate(listed):
            made = cotangent(index, output.detach().numpy())
            logits = _logits(output, activations[index])
            score = score + (logits * torch.tensor(made, dtype=self.dtype)).sum()
        places = {**kept, "input": x}
        gradients = torch.autograd.grad(score, list(places.values()))
        return Reference(
            [output.detach().numpy() for output in listed],
            {
                place: (value.detach().numpy(), gradient.numpy())
                for (place, value), gradient in zip(places.items(), gradients, strict=True)
            },
        )

    @staticmethod
    def _keeper(kept: dict[str, Tensor], place: str) -> Callable[..., Tensor]:
        def keep(part: nn.Module, args: object, output: Tensor) -> Tensor:
            kept[place] = output
            return output.clone()  # what changes it in place afterwards changes the copy

        return keep


def _logits(output: Tensor, activation: str | None) -> Tensor:
    if activation == "softmax":
        return output.log()
    return output.logit() if activation == "sigmoid" else output
