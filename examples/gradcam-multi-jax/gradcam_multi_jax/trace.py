"""One run: forward up to the layers, and from there on in a way that gradients can follow."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradcam_multi import GradcamError, InputError, TargetError, UnsupportedError
from gradcam_multi.backward import check_outputs
from gradcam_multi.errors import LayerNotOnPathError, suggest
from gradcam_multi.spec import Array
from gradcam_multi_jax.program import Program, Values
from gradcam_multi_jax.source import Arguments

if TYPE_CHECKING:
    from gradcam_multi_jax.model import OpenedModel, Prepared


class End(NamedTuple):
    """A layer or an input: its name, its value in the program, and its channel axis."""

    name: str
    value: int
    axis: int | None

    def channels_first(self, array: Any) -> Any:
        """Lay an array of the value's shape out as (N, C, *grid); an input's stays as it is."""
        return array if self.axis in (None, 1) else jnp.moveaxis(array, self.axis, 1)


class JaxTrace:
    """Implements the contract's `Trace`; arrays on the way back are freed when it closes."""

    def __init__(
        self,
        model: "OpenedModel",
        prepared: "Prepared",
        params: Any,
        arguments: Arguments,
        layers: Sequence[End],
        guided: bool,
    ) -> None:
        self._model, self._prepared, self._arguments = model, prepared, arguments
        self._layers, self._guided = list(layers), guided
        values = [layer.value for layer in layers]
        self._ends = {name: end for name, (end, _) in prepared.logits.items()}
        forward = prepared.compiled(
            (guided, *values),
            lambda: _forward(prepared.program, values, list(self._ends.values()), guided),
        )
        outputs, logits, kept, self._pull = forward(params, arguments)
        self.outputs = dict(zip(self._ends, map(_numpy, outputs), strict=True))
        self.logits = dict(zip(self._ends, map(_numpy, logits), strict=True))
        self._dtypes = [each.dtype for each in logits]
        self.activations = tuple(
            _numpy(layer.channels_first(value)) for layer, value in zip(layers, kept, strict=True)
        )

    def close(self) -> None:
        """Let go of what was kept for gradients."""
        self._pull = None

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply cotangents of the logits back to the layers; see `gradcam_multi.spec`."""
        if self._pull is None:
            raise GradcamError("the trace has ended; use it inside its `with` block")
        check_outputs(self._guided, cotangents)
        for name, array in cotangents.items():
            if name not in self.logits:
                raise TargetError(
                    f"the model has no output {name!r}; it has {', '.join(self.logits)}"
                    f"{suggest(name, self.logits)}"
                )
            if np.shape(array) != self.logits[name].shape:
                raise TargetError(
                    f"a cotangent of shape {np.shape(array)} was given for output {name!r}, whose "
                    f"logits have shape {self.logits[name].shape}; give one of that shape"
                )
        self._check_path(cotangents)
        # Half precision holds no number below 6e-8: the largest becomes about 1 on the way.
        largest = max(float(np.abs(array).max(initial=0)) for array in cotangents.values())
        scale = 2.0 ** np.floor(np.log2(largest)) if 0 < largest < np.inf else 1.0
        given = [
            jnp.asarray(
                np.asarray(cotangents[name], np.float32) / scale
                if name in cotangents
                else np.zeros(own.shape, np.float32),
                dtype,
            )
            for (name, own), dtype in zip(self.logits.items(), self._dtypes, strict=True)
        ]
        try:
            pulled = _apply(self._pull, given)
        except (NotImplementedError, ValueError) as error:
            cause = " ".join(str(error).split())[:120]
            raise UnsupportedError(
                f"what follows layer {', '.join(self._names)} cannot be differentiated: {cause}; "
                "name a later layer"
            ) from error
        return tuple(
            _numpy(layer.channels_first(g)) * np.float32(scale)
            for layer, g in zip(self._layers, pulled, strict=True)
        )

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Run forward from the layer on with another activation, (N, C, *grid)."""
        arguments, count = self._arguments, len(activation)
        if self._prepared.batch == 1 and count != 1:
            arguments = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), arguments)
        prepared, params, arguments = self._model.prepare(_inputs(arguments))
        own = prepared.find(layer)
        if own is None:
            raise InputError(f"layer {layer!r} was not traced; traced: {', '.join(self._names)}")
        aval, axis = prepared.program.avals[own.value], own.axis
        new = jnp.asarray(activation, aval.dtype)
        new = new if axis in (None, 1) else jnp.moveaxis(new, 1, axis)
        if new.shape != aval.shape:
            raise InputError(
                f"an activation of shape {np.shape(activation)} was given for layer {layer!r}, "
                f"which makes {aval.shape} in its own layout; keep its shape"
            )
        ends = [end for end, _ in prepared.logits.values()]
        run = prepared.compiled(
            ("replay", own.value), lambda: _replay(prepared.program, own.value, ends)
        )
        logits = run(params, arguments, new)
        return dict(zip(prepared.logits, map(_numpy, logits), strict=True))

    def _check_path(self, cotangents: Mapping[str, Array]) -> None:
        reached = self._prepared.program.before([self._ends[name] for name in cotangents])
        for layer in self._layers:
            if layer.value not in reached:
                raise LayerNotOnPathError(
                    f"the logits of {', '.join(cotangents)} do not depend on layer {layer.name!r}; "
                    "choose a layer before them"
                )

    @property
    def _names(self) -> list[str]:
        return [layer.name for layer in self._layers]


def _forward(
    program: Program, layers: list[int], ends: list[int], guided: bool
) -> Callable[..., Any]:
    """Compile the run: steps up to the first layer plainly, the rest with what vjp needs."""
    places = [n for n, step in enumerate(program.steps) if set(step.makes) & set(layers)]
    # Nothing makes an input: it is there before the first step.
    cut = 0 if set(layers) & set(program.inputs) else min(places, default=-1) + 1

    def forward(params: Any, arguments: Arguments) -> Any:
        values = program.start(params, arguments)
        for step in program.steps[:cut]:
            step.run(values)

        def rest(added: list[Any]) -> Any:
            known, shifts = dict(values), dict(zip(layers, added, strict=True))
            kept: Values = {}
            _shift(known, layers, shifts, kept)
            for step in program.steps[cut:]:
                step.run(known)
                if guided and step.rectifies:
                    known.update({made: _guided(known[made]) for made in step.makes})
                _shift(known, step.makes, shifts, kept)
            return [known[end] for end in ends], (
                [known[end] for end in program.outputs.values()],
                [kept[layer] for layer in layers],
            )

        avals = [program.avals[layer] for layer in layers]
        zeros = [jnp.zeros(aval.shape, aval.dtype) for aval in avals]
        logits, pull, (outputs, kept) = jax.vjp(rest, zeros, has_aux=True)
        return outputs, logits, kept, pull

    compiled: Callable[..., Any] = jax.jit(forward)
    return compiled


@jax.custom_vjp  # type: ignore[untyped-decorator]  # types are checked without jax
def _guided(made: Any) -> Any:
    """Return what a ReLU made; on the way back negative gradients are dropped before it."""
    return made


_guided.defvjp(lambda made: (made, None), lambda _, gradient: (jnp.maximum(gradient, 0),))


def _shift(known: Values, made: Sequence[int], shifts: Values, kept: Values) -> None:
    """Keep what a layer made, and add what the gradient is taken for."""
    for value in made:
        if value in shifts and value in known and value not in kept:
            kept[value] = known[value]
            known[value] = known[value] + shifts[value]


def _replay(program: Program, layer: int, ends: list[int]) -> Callable[..., Any]:
    """Compile a run in which a layer's result is given; what only it needed is left out."""

    def run(params: Any, arguments: Arguments, activation: Any) -> Any:
        values = program.start(params, arguments)
        if layer in program.inputs:
            values[layer] = activation
        for step in program.steps:
            step.run(values)
            if layer in step.makes:
                values[layer] = activation
        return [values[end] for end in ends]

    compiled: Callable[..., Any] = jax.jit(run)
    return compiled


@jax.jit  # type: ignore[untyped-decorator]  # types are checked without jax
def _apply(pull: Any, cotangents: list[Any]) -> Any:
    (gradients,) = pull(cotangents)
    return gradients


def _inputs(arguments: Arguments) -> Any:
    """Return arguments as the inputs that bind to them."""
    return arguments[1] or (arguments[0][0] if len(arguments[0]) == 1 else arguments[0])


def _numpy(value: Any) -> Array:
    return np.asarray(value).astype(np.float32, copy=False)
