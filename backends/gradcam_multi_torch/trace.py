"""One run with some tensors kept, and the products of cotangents with its Jacobian."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gradcam_multi.backward import check_outputs
from gradcam_multi.errors import (
    GradcamError,
    InputError,
    LayerNotOnPathError,
    LayerNotReachedError,
    TargetError,
    UnsupportedError,
    suggest,
)
from gradcam_multi.spec import Array, InputName
from gradcam_multi_torch import trees
from gradcam_multi_torch.recording import Operation, Output
from gradcam_multi_torch.scaling import gradients
from gradcam_multi_torch.watch import Watch
from gradcam_multi_torch.wording import refused

Forward = Callable[[int | None, Sequence[Watch]], Any]
"""Runs the model under watches, on its inputs or on its only item repeated so many times."""


class Capture:
    """The tensor of one layer, made the start of the graph where nothing before it was asked for.

    Until the first captured tensor the run records no graph; from it on it does. What the model
    goes on with is a copy, so that an in-place operation neither fails nor touches what was kept;
    a tensor that was itself written in place is filled from the kept one instead, since the model
    may hold it under another name.
    """

    def __init__(self, operation: Operation, begun: list[bool]) -> None:
        self.operation = operation
        self.tensor: Tensor | None = None
        self.source: Tensor | GradientEdge | None = None
        self._begun = begun
        self._view: Tensor | None = None
        self._handed: Tensor | None = None
        self._versions = (0, 0)

    def watch(self) -> Watch:
        """Watch the layer's place."""
        return Watch(self.operation.place, self._keep, in_place=self.operation.in_place)

    def _keep(self, made: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            raise UnsupportedError(
                f"layer {self.operation.layer.name!r} runs inside torch.inference_mode(), where no "
                "gradient can be had; choose a layer after it, or use torch.no_grad() in the model"
            )
        if made._is_view():
            # The model may write into what it is a view of, and that must not reach what is kept;
            # or into the view itself, and that will not reach what it is a view of: see `check`.
            self._view = made
            made = made.clone()
        made = made.clone() if made.is_inference() else made
        inner = made.requires_grad and bool(self._begun)
        self._begun.append(True)
        torch.set_grad_enabled(True)
        written = self.operation.in_place and not made._is_view()
        if inner and written:
            # Already in the graph under every name it has: its place there is enough.
            self.tensor, self.source = made.detach().clone(), get_gradient_edge(made)
            return made
        if written:
            self.tensor = self.source = made.detach().clone().requires_grad_()
            return made.detach_().copy_(self.source)
        self.tensor = self.source = made if inner else made.detach().requires_grad_()
        handed = self.tensor.clone()
        if self._view is not None:
            self._handed, self._versions = handed, (self._view._version, handed._version)
        return handed

    def check(self) -> None:
        """Raise UnsupportedError where the model has written into a view that was kept.

        It went on with a copy, so that what was written is missing where the view came from,
        unless the model has put it there itself (`x[:, 0] += 1` does).
        """
        if self._view is not None and self._handed is not None:
            outer, inner = self._versions
            if self._view._version == outer and self._handed._version != inner:
                raise UnsupportedError(
                    f"layer {self.operation.layer.name!r} is a view into another tensor, and the "
                    "model writes into it in place: choose the layer before or after it"
                )
        self._view = self._handed = None

    def release(self) -> None:
        """Let go of the tensor and of its place in the graph."""
        self.tensor = self.source = self._view = self._handed = None


class Logits:
    """The tensor behind a final activation."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.read: Tensor | None = None
        self.made: Tensor | None = None

    def watches(self) -> list[Watch]:
        """Watch the activation, where there is one."""
        if self.output.activation is None:
            return []
        return [Watch(self.output.activation, operand=self._keep, in_place=self.output.in_place)]

    def _keep(self, read: Tensor, made: Tensor) -> None:
        self.read, self.made = read, made

    def tensor(self, returned: Tensor) -> Tensor:
        """Return the logits of an output; the output itself where no activation made it."""
        return self.read if self.read is not None and self.made is returned else returned


class TorchTrace:
    """One run of a module; implements the contract's `Trace`."""

    def __init__(
        self,
        forward: Forward,
        operations: Sequence[Operation],
        outputs: Sequence[Output],
        guided: bool = False,
        seen: Sequence[Watch] = (),
    ) -> None:
        self._forward = forward
        self._specs, self._guided = outputs, guided
        begun: list[bool] = []
        # By place: an input may have the name of a layer.
        captures = {operation.place: Capture(operation, begun) for operation in operations}
        watches = [capture.watch() for capture in captures.values()]
        returned, logits = self._run(None, [*seen, *watches])
        for capture in captures.values():
            if capture.tensor is None:
                raise LayerNotReachedError(
                    f"layer {capture.operation.layer.name!r} did not run for these inputs, though "
                    "it did for earlier ones; choose a layer that every input passes"
                )
            capture.check()
        self._captures = [captures[operation.place] for operation in operations]
        self._returned: dict[str, Tensor] | None = returned
        self._logits: dict[str, Tensor] | None = logits

    @property
    def connected(self) -> bool:
        """Whether a graph was recorded from the layers to any logits."""
        return any(tensor.requires_grad for tensor in self._alive(self._logits).values())

    @cached_property
    def outputs(self) -> Mapping[str, Array]:
        """What the model returned, float32."""
        return {name: to_numpy(t) for name, t in self._alive(self._returned).items()}

    @cached_property
    def logits(self) -> Mapping[str, Array]:
        """The same before a final softmax or sigmoid."""
        return {name: to_numpy(t) for name, t in self._alive(self._logits).items()}

    @cached_property
    def activations(self) -> tuple[Array, ...]:
        """(N, C, *grid) float32, one per layer asked for."""
        self._alive(self._logits)
        return tuple(self._to_core(capture, capture.tensor) for capture in self._captures)

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply cotangents of the logits back to the layers; raises LayerNotOnPathError."""
        logits = self._alive(self._logits)
        check_outputs(self._guided, cotangents)
        pairs = [(logits[name], array) for name, array in self._checked(cotangents, logits)]
        reached = [(tensor, array) for tensor, array in pairs if tensor.requires_grad]
        sources = [capture.source for capture in self._captures if capture.source is not None]
        try:
            with torch.inference_mode(False):
                found = gradients(reached, sources)
        except RuntimeError as error:
            if refusal := refused(error):
                raise refusal from error
            raise
        for capture, gradient in zip(self._captures, found, strict=True):
            if gradient is None:
                raise LayerNotOnPathError(
                    f"output {' or '.join(map(repr, cotangents)) or 'none'} does not depend on "
                    f"layer {capture.operation.layer.name!r}, or only through operations without "
                    "a gradient; choose another layer or another output"
                )
        return tuple(map(self._to_core, self._captures, found))

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Run again with another activation of a captured layer; return the logits.

        `activation` is (N, C, *grid); N may differ from the run's where its inputs hold one item.
        """
        capture, new = self._exchanged(layer, activation)
        in_place = capture.operation.in_place

        def exchange(made: Tensor) -> Tensor:
            return made.copy_(new) if in_place and made.shape == new.shape else new.clone()

        watch = Watch(capture.operation.place, exchange, in_place=in_place)
        _, logits = self._run(len(activation), [watch])
        return {name: to_numpy(tensor) for name, tensor in logits.items()}

    def _exchanged(self, layer: str, activation: Array) -> tuple[Capture, Tensor]:
        """The layer's capture, and another activation of it as the model lays it out."""
        self._alive(self._logits)
        known = {
            capture.operation.layer.name: capture
            for capture in self._captures
            if capture.operation.place.given is not None or not isinstance(layer, InputName)
        }
        capture = known.get(layer)
        if capture is None or capture.tensor is None:
            raise InputError(
                f"layer {layer!r} was not traced; traced: {', '.join(known)}; trace it first"
            )
        new = torch.from_numpy(np.array(activation)).to(capture.tensor.device, capture.tensor.dtype)
        own = capture.operation.layer
        axis, batch = own.channel_axis, own.batch_axis
        new = new if axis is None else new.movedim((0, 1), (batch, axis))
        like = list(capture.tensor.shape)
        like[batch] = new.shape[batch] if new.ndim == len(like) else -1
        if list(new.shape) != like:
            raise InputError(
                f"an activation of shape {np.shape(activation)} was given for layer {layer!r}, "
                f"whose own is {self._to_core(capture, capture.tensor).shape}; keep its shape"
            )
        return capture, new

    def release(self) -> None:
        """Let go of every tensor and of the graph."""
        for capture in self._captures:
            capture.release()
        self._returned = self._logits = None

    def _run(
        self, count: int | None, watches: Sequence[Watch]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        ends = [Logits(output) for output in self._specs]
        behind = [watch for end in ends for watch in end.watches()]
        output = self._forward(count, [*watches, *behind])
        returned = {name or "output": tensor for name, tensor in trees.floating(output)}
        known = {end.output.spec.name: end for end in ends}
        logits = {
            name: known[name].tensor(tensor) if name in known else tensor
            for name, tensor in returned.items()
        }
        return returned, logits

    def _checked(
        self, cotangents: Mapping[str, Array], logits: Mapping[str, Tensor]
    ) -> list[tuple[str, Array]]:
        for name, array in cotangents.items():
            if name not in logits:
                raise TargetError(
                    f"the model has no output {name!r}; it has {', '.join(logits)}"
                    f"{suggest(name, logits)}"
                )
            if np.shape(array) != tuple(logits[name].shape):
                raise TargetError(
                    f"a cotangent of shape {np.shape(array)} was given for output {name!r}, whose "
                    f"logits have shape {tuple(logits[name].shape)}; give one of that shape"
                )
        return list(cotangents.items())

    @staticmethod
    def _alive(kept: dict[str, Tensor] | None) -> dict[str, Tensor]:
        if kept is None:
            raise GradcamError("the trace has ended; use it inside its `with` block")
        return kept

    @staticmethod
    def _to_core(capture: Capture, tensor: Tensor | None) -> Array:
        assert tensor is not None
        layer = capture.operation.layer
        axes = layer.batch_axis, layer.channel_axis
        return to_numpy(tensor if axes[1] is None else tensor.movedim(axes, (0, 1)))


def to_numpy(tensor: Tensor) -> Array:
    """Return a tensor's values, float32."""
    array: Array = tensor.detach().to("cpu", torch.float32).contiguous().numpy()
    return array
