"""The conformance kit's networks as PyTorch modules, written as torchvision's are."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from gradcam_multi.testing import EPSILON, Network, Node


def build(network: Network) -> nn.Module:
    """Build a described network in evaluation mode, its parts under their own names."""
    module = Root(network)
    module.load_state_dict(
        {_key(network, name): torch.tensor(array) for name, array in network.weights.items()},
        strict=False,  # a batch normalisation counts its batches
    )
    return module.to(getattr(torch, network.dtype)).eval()


def _key(network: Network, name: str) -> str:
    renamed = {"mean": "running_mean", "variance": "running_var"}
    node, _, weight = name.rpartition(".")
    return f"{node}.{renamed.get(weight, weight)}"


class Block(nn.Module):
    """A module of the description: runs its parts in order."""

    def __init__(self, network: Network, scope: str = ""):
        super().__init__()
        self.steps = []
        for part in network.parts(scope):
            name = part.name if isinstance(part, Node) else part
            own = name.rpartition(".")[2]
            if isinstance(part, Node):
                module, reads, makes = _part(network, part), part.inputs, (name,)
            else:
                module, (reads, makes) = Block(network, part), network.ends(part)
            # `class` is a word of Python's, but an attribute may have any name.
            self.add_module(own, module)
            self.steps.append((own, reads, makes))
        self.reads, self.makes = network.ends(scope) if scope else ((), ())

    def run(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for own, reads, makes in self.steps:
            result = getattr(self, own)(*(values[name] for name in reads))
            results = result if isinstance(result, tuple) else (result,)
            values.update(zip(makes, results, strict=True))
        return values

    def forward(self, *inputs: torch.Tensor) -> Any:
        values = self.run(dict(zip(self.reads, inputs, strict=True)))
        made = tuple(values[name] for name in self.makes)
        return made if len(made) > 1 else made[0]


class Root(Block):
    """The whole network: inputs by position or name, one tensor or a dict of them."""

    def __init__(self, network: Network):
        super().__init__(network)
        self.names, self.returned, self.keyed = (
            tuple(network.inputs), dict(network.outputs), network.keyed
        )  # fmt: skip
        self.forward = self._two if len(self.names) == 2 else self._one

    def _one(self, image: torch.Tensor) -> Any:
        return self._finish({self.names[0]: image})

    def _two(self, left: torch.Tensor, right: torch.Tensor) -> Any:
        return self._finish({"left": left, "right": right})

    def _finish(self, values: dict[str, torch.Tensor]) -> Any:
        values = self.run(values)
        made = {output: values[name] for output, name in self.returned.items()}
        return made if self.keyed else next(iter(made.values()))


class Apply(nn.Module):
    """A function as a module, as a model's own forward would call it."""

    def __init__(self, function: Any):
        super().__init__()
        self.function = function

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs)


class Learned(nn.Module):
    """A learned tensor, put before the tokens or added to them."""

    def __init__(self, weight: Any, before: bool):
        super().__init__()
        self.weight, self.before = nn.Parameter(torch.tensor(weight)), before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.before:
            return torch.cat([self.weight.expand(len(x), -1, -1), x], 1)
        return x + self.weight


class Attention(nn.Module):
    """Scaled dot products in groups of channels."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in inputs)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _part(network: Network, node: Node) -> nn.Module:
    weights = network.weights_of(node)
    shape = weights["weight"].shape if weights else ()
    if node.op == "conv":
        kind = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(shape)]
        stride = node.attributes.get("stride", 1)
        padding = node.attributes.get("padding", shape[2] // 2)
        return kind(shape[1], shape[0], shape[2:], stride=stride, padding=padding)
    if node.op == "batchnorm":
        return nn.BatchNorm2d(shape[0], eps=EPSILON)
    if node.op in ("prepend", "position"):
        return Learned(weights["weight"], node.op == "prepend")
    return {
        "add": lambda: Apply(torch.add),
        "attention": lambda: Attention(node.attributes["heads"]),
        "concat": lambda: Apply(lambda *inputs: torch.cat(inputs, 1)),
        "dense": lambda: nn.Linear(shape[1], shape[0]),
        "gap": lambda: Apply(lambda x: x.mean(tuple(range(2, x.ndim)))),
        "layernorm": lambda: nn.LayerNorm(shape, eps=EPSILON),
        "maxpool": lambda: Apply(_maxpool),
        "relu": lambda: nn.ReLU(inplace=True),  # as torchvision's are: the adapter has to bear it
        "select": lambda: Apply(lambda x: x[:, node.attributes["index"]]),
        "softmax": lambda: nn.Softmax(dim=-1),
        "tokens": lambda: Apply(lambda x: x.flatten(2).transpose(1, 2)),
    }[node.op]()


def _maxpool(x: torch.Tensor) -> torch.Tensor:
    return {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}[x.ndim](x, 2)
