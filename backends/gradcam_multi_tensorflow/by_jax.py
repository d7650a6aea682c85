"""Keras on the JAX backend: the traced layers' results plus zero, differentiated by the zero."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import keras

from gradcam_multi.spec import Array
from gradcam_multi_tensorflow.calls import losses_kept
from gradcam_multi_tensorflow.inputs import Bound
from gradcam_multi_tensorflow.recording import Node, Output, Recorder
from gradcam_multi_tensorflow.runs import Listed, named, tapped, to_float32
from gradcam_multi_tensorflow.watch import watching

_COMPILED = 32  # functions kept per model; most callers have one


class JaxEngine:
    """Runs a Keras model on JAX; see `gradcam_multi_tensorflow.runs.Engine`."""

    exact = False

    def __init__(self, model: Any) -> None:
        self._model = model
        self._compiled: OrderedDict[Any, Callable[..., Any]] = OrderedDict()
        self._lock = threading.RLock()

    @property
    def accelerated(self) -> bool:
        """Whether JAX runs on another device than the CPU."""
        return str(jax.default_backend()) != "cpu"

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Step out of nothing: JAX has no modes."""
        yield

    def record(self, bound: Bound, listed: Listed) -> None:
        """Run under a recorder on shapes alone, and hand over what it noted."""
        form = bound.form
        if not self._model.built:
            with losses_kept(self._model):
                form.call(self._model, bound.tensors)

        def run(weights: list[Any], tensors: dict[str, Any]) -> Any:
            recorder = Recorder()
            with self._stateless(weights), watching(recorder):
                result = form.call(self._model, tensors)
            listed(recorder, tensors, result)
            return result

        jax.eval_shape(run, self._weights(), dict(bound.tensors))

    def run(
        self, bound: Bound, outputs: Sequence[Output], nodes: Sequence[Node], guided: bool
    ) -> JaxRun:
        """Run and keep the results of the nodes; `guided` has ReLU's guided rule."""
        form = bound.form  # a compiled function must not hold on to the tensors
        guide = _guided if guided else None

        def forward(weights: list[Any], tensors: dict[str, Any]) -> Any:
            def moved(deltas: list[Any] | None) -> Any:
                kept: dict[int, Any] = {}

                def tap(number: int, tensor: Any) -> Any:
                    kept[number] = tensor
                    return tensor if deltas is None else tensor + deltas[number]

                with self._stateless(weights):
                    found, logits = tapped(self._model, form, tensors, outputs, nodes, tap, guide)
                return logits, (found, [kept[number] for number in range(len(nodes))])

            _, (_, like) = jax.eval_shape(lambda: moved(None))
            zeros = [jnp.zeros(each.shape, each.dtype) for each in like]
            logits, back, (found, kept) = jax.vjp(moved, zeros, has_aux=True)
            return found, logits, kept, back

        key = ("run", bound.key, guided, tuple((node.place, node.index) for node in nodes))
        function = self._function(key, forward)
        return JaxRun(outputs, *function(self._weights(), dict(bound.tensors)))

    def replay(
        self, bound: Bound, outputs: Sequence[Output], node: Node, value: Array
    ) -> Mapping[str, Array]:
        """Run with another result of the node, and return the logits."""
        form = bound.form

        def forward(weights: list[Any], tensors: dict[str, Any], given: Any) -> Any:
            with self._stateless(weights):
                return tapped(
                    self._model, form, tensors, outputs, [node], lambda number, tensor: given
                )[1]

        function = self._function(("replay", bound.key, node.place, node.index), forward)
        given = jnp.asarray(value, node.dtype)
        return named(outputs, function(self._weights(), dict(bound.tensors), given))

    def _function(self, key: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = jax.jit(function)
                if len(self._compiled) > _COMPILED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return self._compiled[key]

    def _variables(self) -> list[Any]:
        model = self._model
        return [*model.trainable_variables, *model.non_trainable_variables]

    def _weights(self) -> list[Any]:
        return [variable.value for variable in self._variables()]

    @contextmanager
    def _stateless(self, weights: list[Any]) -> Iterator[None]:
        pairs = list(zip(self._variables(), weights, strict=True))
        with losses_kept(self._model), keras.StatelessScope(state_mapping=pairs):
            yield


@jax.custom_vjp  # type: ignore[untyped-decorator]  # types are checked without jax
def _guided(made: Any) -> Any:
    """Return what a ReLU made; on the way back negative gradients are dropped before it."""
    return made


_guided.defvjp(lambda made: (made, None), lambda _, gradient: (jnp.maximum(gradient, 0),))


@jax.jit  # type: ignore[untyped-decorator]  # types are checked without jax
def _pulled(back: Any, cotangents: list[Any]) -> Any:
    return back(cotangents)[0]


class JaxRun:
    """What a run on JAX kept; see `gradcam_multi_tensorflow.runs.Run`."""

    def __init__(
        self, outputs: Sequence[Output], found: Any, logits: Any, kept: Any, back: Any
    ) -> None:
        self.outputs = named(outputs, found)
        self.logits = named(outputs, logits)
        self.kept = [to_float32(tensor) for tensor in kept]
        self._like = dict(zip(self.outputs, logits, strict=True))
        self._back = back

    def pull(self, cotangents: Mapping[str, Array]) -> list[Array | None]:
        """Multiply cotangents of logits back to what was kept; zeros where nothing leads there."""
        given = [_cotangent(logits, cotangents.get(name)) for name, logits in self._like.items()]
        return [to_float32(gradient) for gradient in _pulled(self._back, given)]

    def close(self) -> None:
        """Free what the run kept."""
        self._like, self._back = {}, None


def _cotangent(logits: Any, value: Array | None) -> Any:
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        return jnp.zeros(logits.shape, jax.dtypes.float0)
    return jnp.zeros_like(logits) if value is None else jnp.asarray(value, logits.dtype)
