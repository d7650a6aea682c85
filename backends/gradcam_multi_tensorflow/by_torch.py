"""Keras on the torch backend: autograd from the first traced layer on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import torch

from gradcam_multi.spec import Array
from gradcam_multi_tensorflow.calls import losses_kept, parts
from gradcam_multi_tensorflow.inputs import Bound
from gradcam_multi_tensorflow.recording import Node, Output, Recorder
from gradcam_multi_tensorflow.runs import Listed, named, tapped, to_float32
from gradcam_multi_tensorflow.watch import watching


class TorchEngine:
    """Runs a Keras model on torch; see `gradcam_multi_tensorflow.runs.Engine`."""

    exact = True

    def __init__(self, model: Any) -> None:
        self._model = model

    @property
    def accelerated(self) -> bool:
        """Whether the model's weights are on another device than the CPU."""
        return any(weight.value.device.type != "cpu" for weight in self._model.variables)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Step out of inference mode, whose tensors no graph can hold, and record no graph."""
        with torch.inference_mode(False), torch.no_grad():
            yield

    def record(self, bound: Bound, listed: Listed) -> None:
        """Run under a recorder, without gradients, and hand over what it noted."""
        recorder, given = Recorder(), _own(bound)
        with self._running(), watching(recorder):
            result = bound.form.call(self._model, given)
        listed(recorder, given, result)

    def run(
        self, bound: Bound, outputs: Sequence[Output], nodes: Sequence[Node], guided: bool
    ) -> TorchRun:
        """Run and keep the results of the nodes; `guided` has ReLU's guided rule."""
        kept: dict[int, torch.Tensor] = {}

        def tap(number: int, tensor: torch.Tensor) -> torch.Tensor:
            # Nothing before the first traced layer is recorded; from it on everything is.
            inner = tensor.requires_grad and bool(kept)
            kept[number] = tensor if inner else tensor.detach().requires_grad_()
            torch.set_grad_enabled(True)
            return kept[number].clone()  # what follows may write into its own

        with self._running():
            guide = _guided if guided else None
            found, logits = tapped(self._model, bound.form, _own(bound), outputs, nodes, tap, guide)
        return TorchRun(outputs, found, logits, [kept[number] for number in range(len(nodes))])

    def replay(
        self, bound: Bound, outputs: Sequence[Output], node: Node, value: Array
    ) -> Mapping[str, Array]:
        """Run with another result of the node, and return the logits."""
        with self._running():
            given = keras.ops.cast(keras.ops.convert_to_tensor(value), node.dtype)
            _, logits = tapped(
                self._model, bound.form, _own(bound), outputs, [node], lambda number, tensor: given
            )
            return named(outputs, logits)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Leave losses and the flags of torch modules inside the model as found."""
        flags = [
            (module, module.training)
            for part in (self._model, *parts(self._model))
            for module in part.modules()
        ]
        with self.outside(), losses_kept(self._model):
            try:
                yield
            finally:
                for module, training in flags:
                    module.training = training


class TorchRun:
    """What a run on torch kept; see `gradcam_multi_tensorflow.runs.Run`."""

    def __init__(
        self,
        outputs: Sequence[Output],
        found: Sequence[torch.Tensor],
        logits: Sequence[torch.Tensor],
        kept: Sequence[torch.Tensor],
    ) -> None:
        self.outputs = named(outputs, found)
        self.logits = named(outputs, logits)
        self.kept = [to_float32(tensor) for tensor in kept]
        self._logits = dict(zip(self.outputs, logits, strict=True))
        self._kept = list(kept)

    def pull(self, cotangents: Mapping[str, Array]) -> list[Array | None]:
        """Multiply cotangents of logits back to what was kept; None where nothing leads there."""
        ends = [
            (self._logits[name], value)
            for name, value in cotangents.items()
            if self._logits[name].requires_grad
        ]
        if not ends:
            return [None] * len(self._kept)
        with torch.inference_mode(False), torch.enable_grad():
            found = torch.autograd.grad(
                [logits for logits, _ in ends],
                self._kept,
                [torch.as_tensor(v, dtype=z.dtype, device=z.device) for z, v in ends],
                retain_graph=True,
                allow_unused=True,
            )
        return [None if gradient is None else to_float32(gradient) for gradient in found]

    def close(self) -> None:
        """Free what the run kept."""
        self._logits, self._kept = {}, []


def _own(bound: Bound) -> dict[str, Any]:
    """Return inputs that belong to no graph and that the model may write into."""
    return {name: tensor.detach().clone() for name, tensor in bound.tensors.items()}


def _guided(made: torch.Tensor) -> torch.Tensor:
    """Drop negative gradients before the derivative of the ReLU that made a tensor."""
    if made.requires_grad and made.grad_fn is not None:
        made.grad_fn.register_prehook(
            lambda gradients: tuple(None if g is None else g.clamp(min=0) for g in gradients)
        )
    return made
