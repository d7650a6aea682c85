"""The light models of the onnx package, with random weights, and PyTorch's word on gradients.

They keep a published network's graph and leave out its weights: constants of one value stand in
for them, under which all channels are the same and most errors hide.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from gradient_referee import Floats, Reference
from onnx import numpy_helper
from onnx_by_torch import computed

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
MODELS = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet",
    "squeezenet", "vgg19", "zfnet512",
)  # fmt: skip

_WIDE, _NARROW = 4096, 128  # hidden dense layers: most of the weights, none of the structure
_SIDES = {"vgg19": 64, "densenet121": 64}  # instead of 224: the others' shapes admit no other
_FLATTENED = {"vgg19": (25088, 2048)}


def loaded(name: str, seed: int = 0) -> onnx.ModelProto:
    """Return a light model with random weights and random statistics."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph, random = model.graph, np.random.default_rng(seed)
    roles = _roles(graph)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    drawn: dict[str, Floats] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shape = stored[node.input[0]]
            drawn[node.output[0]] = _draw(random, roles[node.output[0]], _cut(name, shape))
        else:
            kept.append(node)
    for weight, role in roles.items():
        if weight in stored and stored[weight].dtype == np.float32:
            drawn[weight] = _draw(random, role, _cut(name, stored[weight].shape))
    for label, array in stored.items():
        if array.dtype == np.int64 and label not in drawn:
            drawn[label] = np.array(_cut(name, array), np.int64)  # shapes for Reshape
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(kept)
    used = {label for node in kept for label in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(array, label) for label, array in drawn.items() if label in used
    )
    own = [value for value in graph.input if value.name in used and value.name not in drawn]
    del graph.input[:]
    graph.input.extend(own)
    assert len(own) == 1, [value.name for value in own]
    side = _SIDES.get(name, 224)
    for dim, n in zip(graph.input[0].type.tensor_type.shape.dim, (1, 3, side, side), strict=True):
        dim.dim_value = n
    model.ir_version = 4  # from which initialisers need not be inputs
    return model


def _roles(graph: onnx.GraphProto) -> dict[str, str]:
    """Return what every weight is: a factor, an offset, a matrix."""
    roles, behind = {}, {}
    for node in graph.node:
        if node.op_type in ("Unsqueeze", "Reshape"):
            behind[node.output[0]] = node.input[0]
        names = {
            "BatchNormalization": ["", "factor", "offset", "offset", "factor"],
            "Conv": ["", "matrix", "offset"],
            "Gemm": ["", "matrix", "offset"],
            "Mul": ["", "factor"],
            "Add": ["", "offset"],
        }.get(node.op_type, [])
        for name, role in zip(node.input, names, strict=False):
            if role:
                roles[behind.get(name, name)] = role
    return roles


def _cut(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    wide, flat = {_WIDE: _NARROW}, dict([_FLATTENED[name]] if name in _FLATTENED else [])
    return tuple((wide | flat).get(int(n), int(n)) if len(shape) < 4 else int(n) for n in shape)


def _draw(random: np.random.Generator, role: str, shape: Sequence[int]) -> Floats:
    if role == "factor":
        made = random.uniform(0.8, 1.2, shape)
    elif role == "offset":
        made = random.normal(0, 0.1, shape)
    else:
        fan = np.prod(shape[1:]) if len(shape) > 2 else max(shape)
        made = random.normal(0, np.sqrt(2 / fan), shape)
    return made.astype(np.float32)


class Interpreter:
    """The referee: float64 gradients by PyTorch, item by item, as the models are fixed to one.

    They are taken at the activations that ONNX Runtime computed: of some million ReLUs and maxima
    float32 puts a few on the other side, and each moves the gradient by up to some hundredths.
    `opened` is the model that is compared, so that its run is the very one.
    """

    def __init__(self, model: onnx.ModelProto, opened: Any, early: str, last: str) -> None:
        self.model, self.opened = model, opened
        self.names = {"early": early, "last": last}

    def __call__(
        self, inputs: Floats, cotangent: Callable[[int, Floats], Floats],
        activations: Sequence[str | None],
    ) -> Reference:  # fmt: skip
        runs, name = [], self.model.graph.input[0].name
        with self.opened.trace(inputs, [*self.names.values(), name]) as trace:
            kept = list(trace._runs)
        for item, at in zip(inputs, kept, strict=True):
            x = torch.tensor(item[None].astype(np.float64), requires_grad=True)
            runs.append((x, computed(self.model, {name: x}, at)))
        output, last = self.model.graph.output[0].name, self.model.graph.node[-1]
        outputs = torch.cat([values[output] for _, values in runs])
        made = cotangent(0, outputs.detach().numpy())
        assert (activations[0] == "softmax") == (last.op_type == "Softmax")
        behind = last.input[0] if last.op_type == "Softmax" else output
        logits = torch.cat([values[behind] for _, values in runs]).reshape(outputs.shape)
        score = (logits * torch.tensor(made)).sum()
        parts = {place: [v[label] for _, v in runs] for place, label in self.names.items()}
        parts["input"] = [x for x, _ in runs]
        # One step back for all places: on the way to the input it passes the others.
        every = [value for values in parts.values() for value in values]
        gradients = iter(torch.autograd.grad(score, every))
        return Reference(
            [outputs.detach().numpy()],
            {
                place: (
                    torch.cat(values).detach().numpy(),
                    torch.cat([next(gradients) for _ in values]).numpy(),
                )
                for place, values in parts.items()
            },
        )
