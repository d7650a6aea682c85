"""A Keras model on the torch or JAX backend as the core sees it: watched while it runs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from gradcam_multi.backward import (
    check_floating,
    check_outputs,
    check_rule,
    find_input,
    no_relu,
)
from gradcam_multi.errors import (
    GradcamError,
    InputError,
    LayerNotReachedError,
    UnknownLayerError,
    suggest,
)
from gradcam_multi.spec import Array, Inputs, Layer, ReluRule, TensorSpec
from gradcam_multi_tensorflow import checks
from gradcam_multi_tensorflow.axes import channels_first
from gradcam_multi_tensorflow.calls import parts
from gradcam_multi_tensorflow.inputs import Bound, bind_declared, bind_free, declared, describe
from gradcam_multi_tensorflow.names import resolve
from gradcam_multi_tensorflow.recorded_layers import recorded
from gradcam_multi_tensorflow.recording import Node, Recorder, Recording
from gradcam_multi_tensorflow.runs import Engine, Run

_RECORDINGS = 8  # kept per model


class EagerModel:
    """An opened Keras 3 model on the torch or JAX backend; see `gradcam_multi.spec.Model`.

    Weights are read when a trace runs. A change of the model's structure after the first run is
    not seen: open the model again.
    """

    backend = "tensorflow"  # the adapter's name, whatever Keras computes with

    def __init__(self, model: Any) -> None:
        self._model = model
        self._title = f"{type(model).__name__} {model.name!r}"
        self.framework = f"Keras {keras.__version__} on {keras.backend.backend()}"
        self._declared = declared(model)
        self._recordings: OrderedDict[Any, Recording] = OrderedDict()
        self._lock = threading.RLock()
        self._engine = _engine(model)

    @property
    def accelerated(self) -> bool:
        """Whether the model's weights are elsewhere than in the CPU's memory."""
        return self._engine.accelerated

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes; empty before the first run of one that declares no sizes."""
        recording = self._latest()
        return recording.inputs if recording is not None else ()

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model returns; empty before the first run of one that declares no sizes."""
        recording = self._latest()
        return tuple(each.spec for each in recording.outputs) if recording is not None else ()

    def layers(self, inputs: Inputs = None) -> tuple[Layer, ...]:
        """List every operation in execution order; see `gradcam_multi.spec.Model`."""
        recording = self._latest() if inputs is None else self._recording(self._bind(inputs))
        if recording is None:
            raise InputError(
                f"the layers of {self._title} are known only once it has run; give inputs"
            )
        return recording.layers

    @contextmanager
    def trace(
        self, inputs: Inputs, layers: Sequence[str], *, relu: ReluRule = "plain"
    ) -> Iterator[EagerTrace]:
        """Run once and keep the results of the named layers; see `gradcam_multi.spec.Model`."""
        guided = check_rule(relu)
        bound = self._bind(inputs)
        recording = self._recording(bound)
        if guided and not recording.rectified:
            raise no_relu(self._title)
        nodes = tuple(self._find(recording, name) for name in layers)
        with self._named_errors(bound):
            run = self._engine.run(bound, recording.outputs, nodes, guided)
        trace = EagerTrace(self._engine, bound, recording, nodes, run, guided)
        try:
            yield trace
        finally:
            trace.close()

    def _bind(self, inputs: Inputs) -> Bound:
        with self._engine.outside():
            if self._declared is not None:
                return bind_declared(*self._declared, inputs)
            return bind_free(self._model, inputs)

    def _latest(self) -> Recording | None:
        with self._lock:
            if self._recordings:
                return next(reversed(self._recordings.values()))
        if self._declared is None:
            return None
        slots, _ = self._declared
        if any(extent is None for slot in slots for extent in slot.shape[1:]):
            return None
        given = {
            slot.name: np.zeros([1, *(n or 1 for n in slot.shape[1:])], np.float32)
            for slot in slots
        }
        return self._recording(self._bind(given))

    def _recording(self, bound: Bound) -> Recording:
        with self._lock:
            recording = self._recordings.get(bound.key)
            if recording is None:
                recording = self._recordings[bound.key] = self._record(bound)
                if len(self._recordings) > _RECORDINGS:
                    self._recordings.popitem(last=False)
            self._recordings.move_to_end(bound.key)
            return recording

    def _record(self, bound: Bound) -> Recording:
        """Watch a run of two items: one is squeezed away by some models."""
        two = bound.items(2)
        kept: list[Recording] = []

        def listed(recorder: Recorder, tensors: dict[str, Any], result: Any) -> None:
            kept.append(recorded(recorder, tensors, result))

        try:
            with self._named_errors(two):
                self._engine.record(two, listed)
        except InputError:
            if bound.batch == 2:
                raise
            with self._named_errors(bound):  # its batch size may be fixed
                self._engine.record(bound, listed)
        return kept[-1]

    @contextmanager
    def _named_errors(self, bound: Bound) -> Iterator[None]:
        try:
            yield
        except GradcamError:
            raise
        except Exception as error:  # whatever the model raises on what it was given
            cause = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self._title} does not run on {describe(bound.tensors)}: "
                f"{type(error).__name__}: {cause}"
            ) from error

    def _find(self, recording: Recording, name: str) -> Node:
        dtypes = {spec.name: spec.dtype for spec in recording.inputs}
        own = find_input(name, list(dtypes), (*recording.nodes, *recording.aliases))
        if own is not None:
            check_floating(own, dtypes[own], keras.backend.is_float_dtype(dtypes[own]))
            return recording.input_node(own)
        found = resolve(name, recording.nodes, recording.aliases, self._title)
        if found is not None:
            return recording.nodes[found]
        last = name.rpartition("/")[2].partition("#")[0]
        known = [*recording.nodes, *recording.aliases]
        if last not in known and any(layer.name == last for layer in parts(self._model)):
            raise LayerNotReachedError(
                f"layer {name!r} is part of {self._title}, but did not run for these inputs; "
                "choose a layer that runs"
            )
        raise UnknownLayerError(
            f"{self._title} has no layer {name!r}{suggest(name, known)}; `gradcam layers` "
            "lists them"
        )


class EagerTrace:
    """Outputs, logits and activations of one run; see `gradcam_multi.spec.Trace`."""

    def __init__(
        self,
        engine: Engine,
        bound: Bound,
        recording: Recording,
        nodes: tuple[Node, ...],
        run: Run,
        guided: bool,
    ) -> None:
        self._engine, self._bound, self._recording = engine, bound, recording
        self._nodes, self._run, self._guided = nodes, run, guided
        self.outputs: Mapping[str, Array] = run.outputs
        self.logits: Mapping[str, Array] = run.logits
        self.activations: tuple[Array, ...] = tuple(
            channels_first(kept, node.layer.channel_axis)
            for kept, node in zip(run.kept, nodes, strict=True)
        )
        self._open = True

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply cotangents of the logits back to the layers; see `gradcam_multi.spec.Trace`.

        Raises LayerNotOnPathError, and TargetError for an output that there is not or a cotangent
        of another shape.
        """
        self._check_open()
        check_outputs(self._guided, cotangents)
        given = {
            name: checks.cotangent_for(name, value, self.logits)
            for name, value in cotangents.items()
        }
        dtypes = {node.dtype for node in self._nodes}
        dtypes |= {each.spec.dtype for each in self._recording.outputs}

        def pull(scale: np.float32) -> list[Array | None]:
            return self._run.pull({name: scale * value for name, value in given.items()})

        totals = checks.scaled(pull, "float16" in dtypes)
        reached = [
            channels_first(total, node.layer.channel_axis)
            if total is not None and self._reached(node, given)
            else None
            for total, node in zip(totals, self._nodes, strict=True)
        ]
        return checks.all_reached([node.layer.name for node in self._nodes], reached, cotangents)

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Run forward with another result of the layer; see `gradcam_multi.spec.Trace`.

        Any batch size goes where the logits depend on the inputs through the layer alone.
        Raises UnknownLayerError for a layer that was not traced, InputError for another shape.
        """
        self._check_open()
        node = self._recording.find(layer)
        names = [spec.name for spec in self._recording.inputs]
        own = find_input(layer, names, () if node is None else (layer,))
        node = node if own is None else self._recording.input_node(own)
        if node is None or node not in self._nodes:
            known = [each.layer.name for each in self._nodes]
            raise UnknownLayerError(
                f"layer {layer!r} was not traced; traced: {', '.join(map(repr, known)) or 'none'}"
                f"{suggest(layer, known)}"
            )
        value = checks.activation_for(layer, activation, self.activations[self._nodes.index(node)])
        axis = node.layer.channel_axis
        moved = value if axis is None else np.ascontiguousarray(np.moveaxis(value, 1, axis))
        try:
            return self._engine.replay(self._bound, self._recording.outputs, node, moved)
        except Exception as error:  # each backend has its own
            raise InputError(
                f"layer {layer!r} was replayed with a batch of {len(value)}; other parts of the "
                f"network keep their batch of {self._bound.batch}: give as many items"
            ) from error

    def close(self) -> None:
        """Free what the run kept."""
        self._run.close()
        self._open = False

    def _reached(self, node: Node, outputs: Mapping[str, Any]) -> bool:
        return self._engine.exact or self._recording.reaches(node, outputs)

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError("the trace has ended; use it inside its with block")


def _engine(model: Any) -> Engine:
    if keras.backend.backend() == "torch":
        from gradcam_multi_tensorflow.by_torch import TorchEngine

        return TorchEngine(model)
    from gradcam_multi_tensorflow.by_jax import JaxEngine

    return JaxEngine(model)
