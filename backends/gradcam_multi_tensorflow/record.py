"""Notes each layer call of a model while it is traced.

Every Keras layer, and every raw `keras.ops` node of a functional model, runs through
`keras.Operation.__call__`. It is replaced only while a trace runs, and only the tracing context
sees the replacement do anything; no object of the user's is touched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from gradcam_multi_tensorflow.calls import Call, losses_kept, path_below


@dataclass
class Recorder:
    """The calls of one trace, in order of their start."""

    calls: list[Call] = field(default_factory=list)
    _graph: tf.Graph | None = None
    _current: Call | None = None
    _finished: int = 0

    def begin(self, graph: tf.Graph) -> None:
        """Start afresh; a trace that creates variables runs twice, and only the last one counts."""
        self.calls.clear()
        self._graph, self._current, self._finished = graph, None, 0

    def run(self, original: Callable[..., Any], operation: Any, args: Any, kwargs: Any) -> Any:
        """Call the operation and note what it read and made."""
        graph = self._graph
        # The body of a loop is another graph: what it makes is no tensor of this one.
        if graph is None or tf.compat.v1.get_default_graph() is not graph:
            return original(operation, *args, **kwargs)
        parent = self._current
        path = path_below(parent, operation)
        call = Call(operation, path, parent, graph.version, inputs=_tensors((args, kwargs), graph))
        self.calls.append(call)
        if parent is not None:
            parent.composite = True
        self._current = call
        try:
            inner = getattr(operation, "call", None)
            if isinstance(inner, tf.types.experimental.PolymorphicFunction):
                # A call that is a tf.function of its own would hide its layers in another graph.
                result = inner.python_function(*args, **kwargs)
            else:
                result = original(operation, *args, **kwargs)
        finally:
            self._current = parent
        call.end, call.finish = graph.version, self._finished
        call.outputs = _tensors(result, graph)
        self._finished += 1
        return result


_ACTIVE: ContextVar[Recorder | None] = ContextVar("gradcam_multi_recorder", default=None)
_PATCH = threading.RLock()


@contextmanager
def recording(model: Any) -> Iterator[Recorder]:
    """Record the Keras calls of this context; one recording at a time in a process."""
    recorder = Recorder()
    with _PATCH, losses_kept(model):
        original = keras.Operation.__call__

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            active = _ACTIVE.get()
            if active is None:
                return original(operation, *args, **kwargs)
            return active.run(original, operation, args, kwargs)

        keras.Operation.__call__ = call
        token = _ACTIVE.set(recorder)
        try:
            yield recorder
        finally:
            _ACTIVE.reset(token)
            keras.Operation.__call__ = original


def _tensors(structure: Any, graph: tf.Graph) -> tuple[tf.Tensor, ...]:
    return tuple(
        leaf
        for leaf in tf.nest.flatten(structure)
        if isinstance(leaf, tf.Tensor) and getattr(leaf, "graph", None) is graph
    )
