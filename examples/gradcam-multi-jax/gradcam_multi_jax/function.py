"""What a user wraps a bare function in, so that it can be told from any other callable."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class JaxModel:
    """A function of arrays, and its parameters.

    `function(params, *inputs)` where `params`, any tree of arrays, are given; `function(*inputs)`
    where they are not. It returns an array, or a tree of arrays, batch axis first, and is pure.
    """

    function: Callable[..., Any]
    params: Any = None
