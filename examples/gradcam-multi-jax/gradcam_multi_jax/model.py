"""An opened JAX model: traced once for inputs of a shape, compiled once for a choice of layers."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradcam_multi import InputError, Layer, TensorSpec
from gradcam_multi.backward import check_floating, check_rule, find_input, no_relu
from gradcam_multi.errors import UnknownLayerError, suggest
from gradcam_multi.spec import Inputs, ReluRule
from gradcam_multi_jax.listing import list_layers
from gradcam_multi_jax.logits import behind
from gradcam_multi_jax.program import Program
from gradcam_multi_jax.source import (
    Arguments,
    FunctionSource,
    ModuleSource,
    input_names,
    takes_names,
)
from gradcam_multi_jax.trace import End, JaxTrace

_KEPT = 16  # programs of a model: each batch size and input size has its own


class Prepared:
    """A program, what is known of it, and its compiled functions."""

    def __init__(self, program: Program, batch: int, names: Sequence[str]) -> None:
        self.program, self.batch = program, batch
        self.inputs = dict(zip(names, program.inputs, strict=True))
        self.listing = list_layers(program, batch)
        self.logits = {name: behind(program, end) for name, end in program.outputs.items()}
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> End | None:
        """Return the value that a layer's or an input's name stands for, or None."""
        own = find_input(name, list(self.inputs), (*self.listing.values, *self.listing.aliases))
        if own is not None:
            dtype = self.program.avals[self.inputs[own]].dtype
            check_floating(own, str(dtype), jnp.issubdtype(dtype, jnp.floating))
            return End(own, self.inputs[own], None)
        layer = self.listing.find(name)
        if layer is None:
            return None
        value = self.listing.values[layer]
        return End(layer, value, self.listing.axes.get(value))

    def compiled(self, key: Any, make: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """Return the compiled function of this key, made once."""
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = make()
            return self._compiled[key]


class OpenedModel:
    """Implements the contract's `Model`; parameters are read at each run."""

    backend = "jax"

    def __init__(self, source: FunctionSource | ModuleSource) -> None:
        self.source = source
        self._programs: OrderedDict[Any, Prepared] = OrderedDict()
        self._specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]] = ((), ())
        self._lock = threading.RLock()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it took in its first run; empty before."""
        return self._specs[0]

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it returned in its first run; empty before."""
        return self._specs[1]

    def layers(self, inputs: Inputs = None) -> tuple[Layer, ...]:
        """List every operation in execution order; raises InputError without inputs."""
        if inputs is None:
            raise InputError(
                f"the layers of {self.source.name} are known only for inputs of some shape; give "
                "an array, batch axis first"
            )
        return self.prepare(inputs)[0].listing.layers

    @contextmanager
    def trace(
        self, inputs: Inputs, layers: Sequence[str], *, relu: ReluRule = "plain"
    ) -> Iterator[JaxTrace]:
        """Run once and keep the results of the named layers."""
        guided = check_rule(relu)
        prepared, params, arguments = self.prepare(inputs)
        if guided and not any(step.rectifies for step in prepared.program.steps):
            raise no_relu(self.source.name)
        found = []
        for name in layers:
            end = prepared.find(name)
            if end is None:
                known = [*prepared.listing.values, *prepared.listing.aliases]
                raise UnknownLayerError(
                    f"{self.source.name} has no layer {name!r}{suggest(name, known)}"
                    f"; it has {len(prepared.listing.values)} operations, see gradcam layers"
                )
            found.append(end)
        trace = JaxTrace(self, prepared, params, arguments, found, guided)
        try:
            yield trace
        finally:
            trace.close()

    def prepare(self, inputs: Inputs) -> tuple[Prepared, Any, Arguments]:
        """Return the program for inputs of this shape, the parameters, and the arguments."""
        params, structure, call = self.source.current()
        arguments = self._bind(inputs, params)
        leaves, tree = jax.tree.flatten((params, arguments))
        key = (structure, tree, *((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves))
        with self._lock:
            if key not in self._programs:
                self._programs[key] = self._trace(call, params, arguments)
                while len(self._programs) > _KEPT:
                    self._programs.popitem(last=False)
            self._programs.move_to_end(key)
            return self._programs[key], params, arguments

    def _trace(self, call: Any, params: Any, arguments: Arguments) -> Prepared:
        leaves = jax.tree.leaves(arguments)
        try:
            program = Program(call, params, arguments)
        except (TypeError, ValueError) as error:
            shapes = ", ".join(str(tuple(jnp.shape(leaf))) for leaf in leaves)
            cause = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.source.name} does not take inputs of the shapes {shapes}: {cause}; give "
                "arrays as the function takes them, batch axis first"
            ) from error
        names = input_names(self.source.parameters(), arguments)
        prepared = Prepared(program, int(jnp.shape(leaves[0])[0]), names)
        if not self._specs[1]:
            self._specs = self._describe(prepared)
        return prepared

    def _describe(
        self, prepared: Prepared
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        program, axes = prepared.program, prepared.listing.axes
        inputs = []
        for name, value in prepared.inputs.items():
            aval = program.avals[value]
            axis, rank = axes.get(value), len(aval.shape)
            layout: Any = None
            if axis is not None and axis in (1, rank - 1):
                layout = "channels_first" if axis == 1 else "channels_last"
            free = tuple(n if place == axis else None for place, n in enumerate(aval.shape))
            inputs.append(TensorSpec(name, free, str(aval.dtype), layout))
        outputs = []
        for name, value in program.outputs.items():
            aval = program.avals[value]
            activation = prepared.logits[name][1]
            shape = (None, *aval.shape[1:])
            outputs.append(TensorSpec(name, shape, str(aval.dtype), activation=activation))
        return tuple(inputs), tuple(outputs)

    def _bind(self, inputs: Inputs, params: Any) -> Arguments:
        half = _half(params)

        def convert(leaf: Any) -> Any:
            try:
                array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
                if array.dtype.kind == "f" and array.dtype.itemsize > 2:
                    return jnp.asarray(array, half or jnp.float32)
                return jnp.asarray(array)
            except (TypeError, ValueError) as error:
                cause = " ".join(str(error).split())[:120]
                raise InputError(
                    f"an input is no array of numbers: {cause}; give arrays"
                ) from error

        if isinstance(inputs, Mapping):
            named = {name: convert(array) for name, array in inputs.items()}
            if takes_names(self.source.parameters(), named):
                return (), named
            return (named,), {}
        return tuple(map(convert, inputs if isinstance(inputs, tuple) else (inputs,))), {}


def _half(params: Any) -> Any:
    """Return the dtype of parameters that are all of half precision, or None."""
    found = {jnp.result_type(leaf) for leaf in jax.tree.leaves(params)}
    floating = {dtype for dtype in found if jnp.issubdtype(dtype, jnp.floating)}
    halves = len(floating) == 1 and next(iter(floating)).itemsize == 2
    return next(iter(floating)) if halves else None
