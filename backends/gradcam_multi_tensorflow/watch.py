"""Keras' calls and functions, seen by whoever watches them: for the torch and JAX backends.

All of Keras computes by `keras.Operation.__call__` (layers, and the nodes of functional models)
and, inside of it, by its backend's functions. Both are replaced while somebody watches, and only
the watching context sees the replacements do anything; no object of the user's is touched.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import keras

from gradcam_multi_tensorflow.calls import Call, path_below

_MODULES = ("nn", "numpy", "image", "math", "linalg")
_CORE = ("cast", "stop_gradient", "scatter", "scatter_update", "slice_update")
_NO_STEP = frozenset("shape size ndim broadcast_shapes convert_to_tensor".split())

Place = tuple[str, str, int]
"""What ran: "call" or "function", its path or name, and its number among those, from 1.

Or what was given: "input", its name, and 0.
"""

INPUT = "input"


def input_place(name: str) -> Place:
    """Return the place of an input of the model."""
    return INPUT, name, 0


class Watch:
    """Follows one run, call by call; `returned` and `computed` may put other results in place."""

    def __init__(self) -> None:
        self.current: Call | None = None
        self.counts: Counter[tuple[str, str]] = Counter()
        self._inside = False  # a function of the backend, whose own calls of others are its own

    def call(self, original: Callable[..., Any], operation: Any, args: Any, kwargs: Any) -> Any:
        """Run an operation and report what it returned."""
        parent = self.current
        path = path_below(parent, operation)
        self.counts["call", path] += 1
        call = Call(operation, path, parent, 0, count=self.counts["call", path])
        self.entered(call, args, kwargs)
        if parent is not None:
            parent.composite = True
        self.current, inside, self._inside = call, self._inside, False
        try:
            result = original(operation, *args, **kwargs)
        finally:
            self.current, self._inside = parent, inside
        return self.returned(call, result)

    def function(self, name: str, original: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function of the backend and report what it computed."""
        if self._inside:
            return original(*args, **kwargs)
        self._inside = True
        try:
            result = original(*args, **kwargs)
        finally:
            self._inside = False
        self.counts["function", name] += 1
        place = ("function", name, self.counts["function", name])
        return self.computed(place, original, args, kwargs, result)

    def entered(self, call: Call, args: Any, kwargs: Any) -> None:
        """Note that a call has begun."""

    def returned(self, call: Call, result: Any) -> Any:
        """Return the result with which its caller goes on."""
        return result

    def computed(
        self, place: Place, function: Callable[..., Any], args: Any, kwargs: Any, result: Any
    ) -> Any:
        """Return the result with which its caller goes on."""
        return result


_ACTIVE: ContextVar[Watch | None] = ContextVar("gradcam_multi_watch", default=None)
_LOCK = threading.Lock()
_watchers = 0
_originals: list[tuple[Any, str, Any]] = []


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Have this context's runs of Keras followed; many threads may, each by its own watch."""
    global _watchers
    with _LOCK:
        if _watchers == 0:
            _replace()
        _watchers += 1
    token = _ACTIVE.set(watch)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
        with _LOCK:
            _watchers -= 1
            if _watchers == 0:
                while _originals:
                    setattr(*_originals.pop())


def _replace() -> None:
    _put(keras.Operation, "__call__", _watched_call(keras.Operation.__call__))
    backend = sys.modules["keras.src.backend"]  # what Keras itself calls; it has no public name
    for part in _MODULES:
        module = getattr(backend, part)
        for name, function in list(vars(module).items()):
            own = inspect.isfunction(function) and function.__module__ == module.__name__
            if own and not name.startswith("_") and name not in _NO_STEP:
                _put(module, name, _watched_function(name, function))
    for name in _CORE:
        for module in (backend, backend.core):
            if inspect.isfunction(getattr(module, name, None)):
                _put(module, name, _watched_function(name, getattr(module, name)))


def _put(holder: Any, name: str, replacement: Any) -> None:
    _originals.append((holder, name, getattr(holder, name)))
    setattr(holder, name, replacement)


def _watched_call(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        watch = _ACTIVE.get()
        if watch is None:
            return original(operation, *args, **kwargs)
        return watch.call(original, operation, args, kwargs)

    return call


def _watched_function(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        watch = _ACTIVE.get()
        if watch is None:
            return original(*args, **kwargs)
        return watch.function(name, original, args, kwargs)

    return function
