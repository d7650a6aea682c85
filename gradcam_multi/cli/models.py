"""What commands share about MODEL: its options, and what it names."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, reduce
from importlib import import_module
from inspect import isclass, isroutine
from pkgutil import iter_modules
from traceback import extract_tb
from types import ModuleType
from typing import Any, TypeVar

import click
import numpy as np

from gradcam_multi.errors import ModelError, ModelFileError, suggest
from gradcam_multi.plugins import installed
from gradcam_multi.preprocess import DEFAULT_SIZE
from gradcam_multi.spec import Array, Model

Command = TypeVar("Command", bound=Callable[..., Any])
Shape = tuple[int, ...]

# package.module:attribute.attribute; a path has a slash, a backslash or a suffix.
NAMED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
# Code that is not the user's own: of a traceback, the last line outside of it is shown.
FOREIGN = re.compile(r"^<|[\\/](site|dist)-packages[\\/]|[\\/]importlib[\\/]")
# Never a model, whatever adapters there are.
PLAIN = (ModuleType, bool, int, float, list, tuple, dict)
EXAMPLE = "mypackage.models:build"


def model_options(command: Command) -> Command:
    """Add --backend, --weights and --trust to a command that takes MODEL."""
    for option in (
        click.option(
            "--trust", is_flag=True, help="Run code that MODEL's files hold (pickles, Lambdas)."
        ),
        click.option(
            "--weights",
            metavar="FILE",
            help="Load into what MODEL builds: .pth, .pt, .safetensors, .h5.",
        ),
        click.option(
            "--backend",
            metavar="NAME",
            help="Adapter to open the model with.  [default: who claims it]",
        ),
    ):
        command = option(command)
    return command


def size_option(command: Command) -> Command:
    """Add --input-size to a command that runs MODEL on made-up inputs."""
    return click.option(
        "--input-size",
        callback=_shape,
        metavar="HxW|NxCx...",
        help="Of the made-up input, where the model does not say: 224x224, or 1x1x16000.",
    )(command)


def _shape(_: Any, __: Any, value: str | None) -> Shape | None:
    if value is None:
        return None
    parts = value.lower().replace(",", "x").split("x")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise click.BadParameter(f"{value!r}: give whole numbers such as 224x224 or 1x3x224x224")
    extents = tuple(int(part) for part in parts)
    if len(extents) == 1:
        extents *= 2
    return (1, 3, *extents) if len(extents) == 2 else extents


def made_up(shape: Shape | None, count: int = 1) -> Array:
    """Make an input of the shape, the batch first, of `count` items at least: (N, C, *spatial).

    Where no shape is given it is that of most ImageNet models.
    """
    batch, *rest = shape or (1, 3, *DEFAULT_SIZE)
    return np.random.default_rng(0).normal(size=(max(batch, count), *rest)).astype(np.float32)


def sample(model: Model, shape: Shape | None = None) -> Array:
    """Make an input of the shape given, else of the one that the model declares, else the usual."""
    declared = model.inputs[0].shape if len(model.inputs) == 1 else ()
    if shape is None and declared and all(declared[1:]):
        shape = tuple(extent or 1 for extent in declared)
    return made_up(shape)


def open_model(model: str, weights: str | None = None, trust: bool = False) -> Any:
    """Return what `Explainer` takes for the MODEL of a command line.

    A path stays a path. `package.module:attribute` is imported, from the current folder too as
    ``python -m`` does; what is a function or a class is called without arguments, and gives the
    model. `weights` are loaded into it.

    Raises ModelError where there is no such name, it raises, or gives nothing; ModelFileError for
    weights that do not fit.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # also for the classes of a pickle that is trusted
    if not is_named(model):
        if weights is not None:
            raise ModelFileError(
                f"weights {weights!r} were given for {model!r}, a file: weights go into what a "
                f"function builds; name one, as in {EXAMPLE}"
            )
        return model
    built = _build(model)
    if weights is not None:
        installed().load_weights(built, weights, trust)
    return built


def is_named(model: str) -> bool:
    """Whether a MODEL is the name of what builds one, and not a file."""
    return NAMED.fullmatch(model) is not None and not os.path.exists(model)


def _build(name: str) -> Any:
    module_name, _, path = name.partition(":")
    found = reduce(partial(_attribute, name), path.split("."), _module(name, module_name))
    if isclass(found) or isroutine(found) or isinstance(found, partial):
        with _named(f"calling {name}"):
            found = found()
        if found is None or isinstance(found, PLAIN):
            raise ModelError(
                f"{name} returned {_article(found)}: let it return the model that it builds"
            )
    elif isinstance(found, (*PLAIN, str)):
        raise ModelError(
            f"{name} is {_article(found)}, which cannot be called: name a function that takes no "
            f"arguments and returns a model, as in {EXAMPLE}"
        )
    return found


def _article(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _module(name: str, module: str) -> ModuleType:
    try:
        with _named(f"importing {module}"):
            return import_module(module)
    except ModuleNotFoundError as error:
        parent, _, last = (error.name or "").rpartition(".")
        around = getattr(sys.modules.get(parent), "__path__", []) if parent else None
        siblings = [found.name for found in iter_modules(around)]
        where = f"in {parent}" if parent else "in the current folder or among installed packages"
        raise ModelError(
            f"{name} was asked for, and there is no module {last!r} {where}"
            f"{suggest(last, siblings, most=1) or '; check the name, and the folder you are in'}"
        ) from error


def _attribute(name: str, owner: Any, attribute: str) -> Any:
    try:
        return getattr(owner, attribute)
    except AttributeError as error:
        known = [each for each in dir(owner) if not each.startswith("_")]
        raise ModelError(
            f"{name} was asked for, and {getattr(owner, '__name__', type(owner).__name__)} has no "
            f"{attribute!r}{suggest(attribute, known) or '; check the name'}"
        ) from error


@contextmanager
def _named(doing: str) -> Iterator[None]:
    """Word what a user's own code raises in one line, with the place; a module that is absent
    under the name that was asked for is left to the caller.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        asked = doing.removeprefix("importing ")
        if isinstance(error, ModuleNotFoundError) and f"{asked}.".startswith(f"{error.name}."):
            raise
        frames = [
            f" ({os.path.basename(frame.filename)}, line {frame.lineno})"
            for frame in extract_tb(error.__traceback__)
            if frame.filename != __file__ and not FOREIGN.search(frame.filename)
        ]
        words = " ".join(str(error).split())
        raise ModelError(
            f"{doing} raised {type(error).__name__}: {words}{frames[-1] if frames else ''}; "
            "correct it first"
        ) from error
