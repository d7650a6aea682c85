"""A traced function as a flat list of steps that can be run from any point on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core

Values = dict[int, Any]

INLINED = frozenset("jit pjit closed_call core_call checkpoint remat remat2".split())
"""Calls that only group: their steps stand for them."""

WHOLE = frozenset("softmax log_softmax sigmoid".split())
"""Functions of JAX's own that stay one step, so that the logits before them are found."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: values are numbered, literals stand for themselves.

    `capped` says that it is a part of JAX's ReLU6.
    """

    kind: str
    equation: Any
    reads: tuple[Any, ...]  # numbers of values, or literals
    makes: tuple[int, ...]
    scope: str
    capped: bool = False

    @property
    def rectifies(self) -> bool:
        """Whether it is JAX's ReLU, or the one inside of its ReLU6.

        A maximum of something and 0 is not always one: normalisations keep a variance positive so.
        """
        return self.kind == "relu" or (self.capped and self.kind == "max")

    def run(self, values: Values) -> None:
        """Compute the results from what was computed before, and add them."""
        given = [values[read] if isinstance(read, int) else read.val for read in self.reads]
        primitive = self.equation.primitive
        results = primitive.bind(*given, **primitive.get_bind_params(self.equation.params))
        results = results if primitive.multiple_results else [results]
        values.update(zip(self.makes, results, strict=True))

    @property
    def sources(self) -> tuple[int, ...]:
        """The values that it reads, without literals."""
        return tuple(read for read in self.reads if isinstance(read, int))


class Program:
    """A function of parameters and inputs, traced for some shapes and flattened."""

    def __init__(self, call: Any, params: Any, arguments: Any) -> None:
        traced, shapes = jax.make_jaxpr(call, return_shape=True)(params, arguments)
        self.avals: dict[int, Any] = {}
        self.constants: Values = {}
        self.steps: list[Step] = []
        numbers: dict[Any, int] = {}
        for var, value in zip(traced.jaxpr.constvars, traced.consts, strict=True):
            self.constants[self._new(numbers, var)] = value
        given = [self._new(numbers, var) for var in traced.jaxpr.invars]
        count = len(jax.tree.leaves(params))
        self.params, self.inputs = given[:count], given[count:]
        self._flatten(traced.jaxpr, numbers, "", False)
        ends = [self._atom(numbers, atom) for atom in traced.jaxpr.outvars]
        paths = jax.tree_util.tree_flatten_with_path(shapes)[0]
        self.outputs: dict[str, int] = {
            _output_name(path): end
            for (path, shape), end in zip(paths, ends, strict=True)
            if isinstance(end, int) and jax.numpy.issubdtype(shape.dtype, jax.numpy.floating)
        }
        self.dependent = set(self.inputs)
        for step in self.steps:
            if not self.dependent.isdisjoint(step.sources):
                self.dependent.update(step.makes)
        self.maker = {made: step for step in self.steps for made in step.makes}

    def _new(self, numbers: dict[Any, int], var: Any) -> int:
        numbers[var] = number = len(self.avals)
        self.avals[number] = var.aval
        return number

    def _atom(self, numbers: Mapping[Any, int], atom: Any) -> Any:
        return atom if isinstance(atom, core.Literal) else numbers[atom]

    def _flatten(
        self, jaxpr: Any, numbers: dict[Any, int], scope: str, capped: bool | None
    ) -> None:
        for equation in jaxpr.eqns:
            kind, params = equation.primitive.name, equation.params
            name = params.get("name") if isinstance(params.get("name"), str) else None
            own = "/".join(filter(None, [scope, str(equation.source_info.name_stack)]))
            reads = tuple(self._atom(numbers, atom) for atom in equation.invars)
            if kind in INLINED and name not in WHOLE:
                inner = params.get("jaxpr", params.get("call_jaxpr"))
                # A hard sigmoid is computed by ReLU6, and is none.
                within = None if name == "hard_sigmoid" else capped
                within = name == "relu6" or within if within is not None else None
                self._inline(inner, equation, reads, numbers, own, within)
                continue
            makes = tuple(self._new(numbers, var) for var in equation.outvars)
            called = name if kind in INLINED else _function_name(params.get("call_jaxpr"))
            self.steps.append(Step(called or kind, equation, reads, makes, own, bool(capped)))

    def _inline(
        self,
        inner: Any,
        equation: Any,
        reads: Sequence[Any],
        numbers: dict[Any, int],
        scope: str,
        capped: bool | None,
    ) -> None:
        own: dict[Any, Any] = {}
        if isinstance(inner, core.ClosedJaxpr):
            for var, value in zip(inner.jaxpr.constvars, inner.consts, strict=True):
                self.constants[self._new(own, var)] = value
            inner = inner.jaxpr
        own.update(zip(inner.invars, reads, strict=True))
        self._flatten(inner, own, scope, capped)
        for var, atom in zip(equation.outvars, inner.outvars, strict=True):
            numbers[var] = self._atom(own, atom)

    def start(self, params: Any, arguments: Any) -> Values:
        """Return the values that are known before the first step."""
        given = [*jax.tree.leaves(params), *jax.tree.leaves(arguments)]
        return {**self.constants, **dict(zip([*self.params, *self.inputs], given, strict=True))}

    def before(self, ends: Iterator[int] | Sequence[int]) -> set[int]:
        """Return the values on which others depend by a path that a gradient can take."""
        found = set(ends)
        for step in reversed(self.steps):
            if step.kind != "stop_gradient" and not found.isdisjoint(step.makes):
                found.update(step.sources)
        return found


def _function_name(called: Any) -> str | None:
    """Name a function that has a derivative of its own, as `relu` has."""
    return getattr(getattr(getattr(called, "jaxpr", None), "debug_info", None), "func_name", None)


def _output_name(path: tuple[Any, ...]) -> str:
    keys = [getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path]
    return "/".join(map(str, keys)) or "output"
