"""What every adapter says alike of the way back: inputs by their names, and ReLU's rule."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from gradcam_multi.errors import (
    InputError,
    MethodError,
    TargetError,
    UnknownLayerError,
    UnsupportedError,
    suggest,
)
from gradcam_multi.spec import InputName, ReluRule


def check_rule(relu: str) -> bool:
    """Return whether a rule is the guided one. Raises MethodError for one that there is not."""
    rules: tuple[str, ...] = get_args(ReluRule)
    if relu not in rules:
        raise MethodError(
            f"relu={relu!r} was asked for; the rules for ReLU's gradient are "
            f"{' and '.join(map(repr, rules))}{suggest(str(relu), rules)}"
        )
    return relu == "guided"


def check_outputs(guided: bool, cotangents: Mapping[str, Any]) -> None:
    """Raise TargetError for cotangents of several outputs under the guided rule.

    It is not linear: what two outputs hand back together is not the sum of what each does.
    """
    if guided and len(cotangents) > 1:
        raise TargetError(
            f"guided gradients of {len(cotangents)} outputs at once were asked for "
            f"({', '.join(map(repr, cotangents))}), and they do not add up; ask for one output "
            "at a time"
        )


def no_relu(model: str) -> UnsupportedError:
    """Say that the guided rule has nothing to act on."""
    return UnsupportedError(
        f"guided gradients were asked for, but {model} runs no ReLU, so that they would be the "
        "plain ones; ask for those, or explain a network with ReLU"
    )


def not_guided(what: str, cure: str) -> UnsupportedError:
    """Say that the guided rule cannot be had, `what` with its verb, and what to do."""
    return UnsupportedError(f"guided gradients were asked for, but {what}; {cure}")


def check_floating(name: str, dtype: str, floating: bool) -> None:
    """Raise InputError for an input of integers."""
    if not floating:
        raise InputError(
            f"the gradient of input {str(name)!r} was asked for, but it holds {dtype}, and only "
            "floating-point numbers have one; choose a layer that it leads to, or another input"
        )


def find_input(name: str, inputs: Sequence[str], layers: Iterable[str]) -> str | None:
    """Return the input that a name given to a trace means, or None where it means a layer.

    A layer goes before an input of its name. Raises UnknownLayerError for an `InputName` that the
    model does not take.
    """
    if isinstance(name, InputName):
        if name not in inputs:
            raise UnknownLayerError(
                f"the model has no input {str(name)!r}; it takes "
                f"{', '.join(map(repr, inputs)) or 'none'}{suggest(name, inputs)}"
            )
        return str(name)
    return name if name in inputs and name not in layers else None
