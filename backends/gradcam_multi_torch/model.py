"""A torch.nn.Module as the core sees it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import nn

from gradcam_multi.backward import check_floating, check_rule, find_input, no_relu
from gradcam_multi.errors import UnsupportedError
from gradcam_multi.spec import Bias, Block, BlockTrace, Inputs, Layer, ReluRule, TensorSpec, Trace
from gradcam_multi_torch import exported
from gradcam_multi_torch.biases import biases_of
from gradcam_multi_torch.blocks import TorchBlocks
from gradcam_multi_torch.guard import evaluation
from gradcam_multi_torch.guided import Guided
from gradcam_multi_torch.inputs import (
    Arguments,
    batch_size,
    exchanged,
    first_items,
    named_tensors,
    prepare,
    spread,
)
from gradcam_multi_torch.record import call, record
from gradcam_multi_torch.recording import Operation, Recording, input_operation
from gradcam_multi_torch.scripted import Scripted, mirror
from gradcam_multi_torch.trace import TorchTrace
from gradcam_multi_torch.watch import Watch, watching
from gradcam_multi_torch.wording import WORDED, reword


def open_module(model: Any) -> "TorchModel":
    """Open a module or a program; raises what `opened` raises."""
    program = isinstance(model, torch.export.ExportedProgram)
    return TorchModel(opened(model), exported.inputs(model) if program else ())


def opened(model: Any) -> nn.Module:
    """Return the module that is run: the user's own, unwrapped, or that of a program.

    Raises UnsupportedError for what cannot be run: a program that trains as it runs, a part of
    TorchScript that has no counterpart, weights without values.
    """
    if isinstance(model, torch.export.ExportedProgram):
        return exported.as_module(model)
    module = unwrap(model)
    _check_weights(module)
    return mirror(module) if isinstance(module, torch.jit.ScriptModule) else module


def _check_weights(module: nn.Module) -> None:
    named = [*module.named_parameters(), *module.named_buffers()]
    empty = [name for name, tensor in named if tensor.is_meta]
    if empty:
        raise UnsupportedError(
            f"{len(empty)} of the {len(named)} weights of the {type(module).__name__} are on the "
            f"meta device and have no values, {empty[0]!r} first: load them before, with "
            "load_state_dict(state, assign=True)"
        )


def unwrap(model: nn.Module) -> nn.Module:
    """Return the user's own module behind torch.compile, DataParallel and DDP."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, parallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


class TorchModel:
    """A module, opened; implements the contract's `Model` and keeps no tensor between runs.

    What it returns and which operations it holds show in a run only: `outputs` and `inputs` are
    empty before the first `layers` or `trace`.
    """

    backend = "torch"
    framework = f"PyTorch {torch.__version__}"

    def __init__(self, module: nn.Module, inputs: tuple[TensorSpec, ...] = ()) -> None:
        self.module = module
        self._declared = inputs
        self._origins = exported.origins(module)
        self._recording: Recording | None = None
        self._grad_outside = False
        self._lock = RLock()

    @property
    def accelerated(self) -> bool:
        """Whether weights are on another device than the CPU."""
        return any(weight.device.type != "cpu" for weight in self.module.parameters())

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What an exported program declares; else what the module took in the recorded run."""
        return self._declared or (self._recording.inputs if self._recording else ())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it returned in the recorded run."""
        return tuple(each.spec for each in self._recording.outputs) if self._recording else ()

    def layers(self, inputs: Inputs = None) -> tuple[Layer, ...]:
        """Every operation in execution order, from a run with the first items of the inputs.

        Raises InputError where inputs are absent and no run was recorded, or do not fit.
        """
        if inputs is None and self._recording is not None:
            return tuple(each.layer for each in self._recording.operations)
        recording = self._record(prepare(self.module, inputs))
        return tuple(each.layer for each in recording.operations)

    def biases(self, inputs: Inputs) -> dict[str, Bias]:
        """Return the biases of the layers that are standard modules; see `spec.Biased`.

        Raises UnsupportedError for a program, whose modules are gone.
        """
        if self._origins is not None or isinstance(self.module, Scripted):
            raise UnsupportedError(
                "the layers' biases were asked for, and a program of torch.export or TorchScript "
                "has no modules to take them from: hand over the torch.nn.Module that it was made "
                "from, or its ONNX export"
            )
        recording = self._recording or self._record(prepare(self.module, inputs))
        return biases_of(self.module, recording.operations)

    @contextmanager
    def trace(
        self, inputs: Inputs, layers: Sequence[str], *, relu: ReluRule = "plain"
    ) -> Iterator[Trace]:
        """Run once and keep the results of the named layers; free and restore all at the end.

        Raises UnknownLayerError, LayerNotReachedError, UnsupportedError or InputError.
        """
        with self._traced(inputs, layers, check_rule(relu)) as trace:
            yield trace

    @contextmanager
    def trace_blocks(self, inputs: Inputs, blocks: Sequence[Block]) -> Iterator[BlockTrace]:
        """Run once and keep the blocks; see `spec.Attentive`. Raises what `trace` raises."""
        names = [*(b.tokens for b in blocks), *(b.attention for b in blocks)]
        kind = partial(TorchBlocks, blocks=tuple(blocks))
        with self._traced(inputs, names, False, kind) as trace:
            yield trace

    @contextmanager
    def _traced(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        guided: bool,
        kind: Callable[..., Any] = TorchTrace,
    ) -> Iterator[Any]:
        with torch.inference_mode(False):
            arguments = prepare(self.module, inputs)
        recording = self._recording
        given = self._given(arguments)
        if recording is None or any(
            name not in recording.names and name not in given for name in layers
        ):
            recording = self._record(arguments)
        operations = [self._find(name, recording, given) for name in layers]

        fresh = [arguments]

        def start(grad_outside: bool) -> Any:
            def forward(count: int | None, watches: Sequence[Watch]) -> Any:
                # The model may write into its inputs, so that each run needs its own copy.
                with torch.inference_mode(False):
                    given = fresh.pop() if fresh else prepare(self.module, inputs)
                    given = spread(given, count) if count else given
                return self._forward(given, watches, recording, grad_outside, guided)

            return kind(forward, operations, recording.outputs, guided)

        with evaluation(self.module):
            trace = start(self._grad_outside)
            try:
                off = not trace.connected and not self._grad_outside
                if off and any(map(recording.reaches, operations)):
                    # The model switches the gradient off around the layer and, on leaving, back
                    # to what was outside: so it must be on outside.
                    trace.release()
                    trace = start(grad_outside=True)
                    self._grad_outside = trace.connected
                yield trace
            finally:
                trace.release()

    def _given(self, arguments: Arguments) -> dict[str, str]:
        """Return the tensors of a run by every name that they go by, as their names in the run."""
        own = list(named_tensors(self.module, arguments))
        known = [spec.name for spec in self._declared]
        return {
            **dict(zip(known, own, strict=True) if len(known) == len(own) else ()),
            **dict(zip(own, own, strict=True)),
        }

    @staticmethod
    def _find(name: str, recording: Recording, given: dict[str, str]) -> Operation:
        own = find_input(name, list(given), recording.names)
        return recording.find(name) if own is None else input_operation(given[own])

    def _record(self, arguments: Arguments) -> Recording:
        with self._lock, torch.inference_mode(False), torch.no_grad(), evaluation(self.module):
            try:
                # Two items rather than one: a batch of one is squeezed away by some models.
                recording = record(self.module, first_items(arguments, 2), self._origins)
            except Exception as error:
                recording = self._record_all(arguments, error)
            self._recording = recording
            return recording

    def _record_all(self, arguments: Arguments, error: Exception) -> Recording:
        try:
            if batch_size(arguments) <= 2:
                raise error
            # Its batch size may be fixed.
            whole = first_items(arguments, batch_size(arguments))
            return record(self.module, whole, self._origins)
        except WORDED as again:
            if named := reword(again, self.module, arguments, self._declared, bool(self._declared)):
                raise named from again
            raise

    def _forward(
        self,
        arguments: Arguments,
        watches: Sequence[Watch],
        recording: Recording,
        grad_outside: bool,
        guided: bool,
    ) -> Any:
        rule = Guided() if guided else nullcontext()
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(grad_outside),
            rule,
            watching(self.module, watches),
        ):
            args, kwargs = self._watched(arguments, watches)
            try:
                returned = call(self.module, args, kwargs)
            except WORDED as error:
                if named := reword(
                    error, self.module, arguments, self.inputs, bool(self._declared)
                ):
                    raise named from error
                raise
        if isinstance(rule, Guided) and not rule.met:
            raise no_relu(f"the {type(self.module).__name__}")
        return returned

    def _watched(self, arguments: Arguments, watches: Sequence[Watch]) -> Arguments:
        """Hand the inputs that are watched to whoever watches them."""
        new = {w.place.given: w.result for w in watches if w.place.given and w.result}
        for name, tensor in named_tensors(self.module, arguments).items() if new else ():
            if name in new:
                dtype = str(tensor.dtype).removeprefix("torch.")
                check_floating(name, dtype, tensor.is_floating_point())
        return exchanged(self.module, arguments, new)
