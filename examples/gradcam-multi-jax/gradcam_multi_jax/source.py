"""What is run: a function of two trees, the parameters and the arguments."""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

from gradcam_multi_jax.function import JaxModel

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Call = Callable[[Any, Arguments], Any]


class FunctionSource:
    """A plain function."""

    def __init__(self, model: JaxModel) -> None:
        self.model, self.name = model, getattr(model.function, "__name__", "function")

    def current(self) -> tuple[Any, Hashable, Call]:
        """Return the parameters, what else a trace depends on, and the function of both trees."""
        params, function = self.model.params, self.model.function
        if params is None:
            return (), None, lambda _, arguments: function(*arguments[0], **arguments[1])
        return params, None, lambda own, given: function(own, *given[0], **given[1])

    def parameters(self) -> dict[str, inspect.Parameter]:
        """Return what the function takes beside its parameters, by name."""
        taken = inspect.signature(self.model.function).parameters.items()
        return dict(itertools.islice(taken, 0 if self.model.params is None else 1, None))


class ModuleSource:
    """A Flax NNX module; its current state is read at every call, and none is written.

    It runs as a copy in evaluation mode, in which each module's call is named by its path: the
    names appear in the traced program.
    """

    def __init__(self, module: Any) -> None:
        self.module, self.name = module, type(module).__name__

    def current(self) -> tuple[Any, Hashable, Call]:
        """Return the module's state, its structure, and the function of state and arguments."""
        from flax import nnx

        structure, state = nnx.split(self.module)

        def call(own: Any, given: Arguments) -> Any:
            copy = nnx.merge(structure, own)
            copy.eval()
            _name_calls(copy)
            return copy(*given[0], **given[1])

        return state, _hashable(structure), call

    def parameters(self) -> dict[str, inspect.Parameter]:
        """Return what the module's call takes, by name."""
        return dict(inspect.signature(self.module.__call__).parameters)


def _hashable(structure: Any) -> Hashable:
    """Return the structure; a module may hold a list, as for its padding: then in words."""
    try:
        hash(structure)
    except TypeError:
        return repr(structure)
    return structure  # type: ignore[no-any-return]


def _name_calls(root: Any) -> None:
    """Give every module below a module that is ours alone a class whose calls are named scopes."""
    from flax import nnx

    running: list[tuple[Any, ...]] = [()]
    calls: Counter[tuple[Any, ...]] = Counter()
    for path, module in list(nnx.iter_modules(root)):
        if path:
            module.__class__ = _named(type(module), path, running, calls)


def _named(cls: type, path: tuple[Any, ...], running: list[Any], calls: Counter[Any]) -> type:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer = running[-1]
        inside = path[: len(outer)] == outer
        own = "/".join(map(str, path[len(outer) :] if inside else path))
        calls[path] += 1
        running.append(path)
        try:
            with jax.named_scope(own if calls[path] == 1 else f"{own}#{calls[path]}"):
                return cls.__call__(self, *args, **kwargs)
        finally:
            running.pop()

    return type(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})


def takes_names(parameters: Mapping[str, inspect.Parameter], names: Mapping[Any, Any]) -> bool:
    """Whether inputs by name are keyword arguments, and not one dict."""
    free = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return all(isinstance(name, str) and (free or name in parameters) for name in names)


def input_names(
    parameters: Mapping[str, inspect.Parameter], arguments: Arguments
) -> tuple[str, ...]:
    """Name the arrays of the arguments, in the order in which they are flattened.

    By their parameters, and inside of a dict or list by their keys there.
    """
    taken = list(parameters)
    names = []
    for path, _ in jax.tree_util.tree_flatten_with_path(arguments)[0]:
        keys: list[Any] = [getattr(key, "key", getattr(key, "idx", None)) for key in path]
        positional, place, inner = keys[0] == 0, keys[1], keys[2:]
        if inner:
            names.append("/".join(map(str, inner)))
        elif positional:
            names.append(taken[place] if place < len(taken) else f"input_{place}")
        else:
            names.append(str(place))
    return tuple(names)
