"""Sums of products in Einstein's notation."""

from string import ascii_letters

import numpy as np

from gradcam_multi_onnx.autodiff.registry import ZERO, Answer, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Dim


@vjp("Einsum", attributes=("equation",))
def _einsum(n: Site, g: Value) -> Answers:
    """Swap operand and result; indices that are only there get ones, repeated ones a diagonal."""
    values = [n.input(place) for place in range(len(n.node.input))]
    terms, result = _terms(n, values)
    extents: dict[str, Value] = {}
    shapes: dict[str, Dim] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, extent, axis in zip(term, value.shape, range(value.rank), strict=True):
            if {extent, shapes.setdefault(letter, extent)} - {1} and 1 in (extent, shapes[letter]):
                n.refuse("it broadcasts an extent of 1 within an index")
            extents.setdefault(letter, n.b.vector([n.b.extent(value, axis)]))
    return tuple(
        _operand(n, g, place, terms, result, values, extents) if place in n.wanted else ZERO
        for place in range(len(values))
    )


def _terms(n: Site, values: list[Value]) -> tuple[list[str], str]:
    equation = str(n.attribute("equation")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    free = [letter for letter in ascii_letters if letter not in equation]
    most = max(v.rank - len(t.replace("...", "")) for t, v in zip(terms, values, strict=True))
    names = "".join(free[:most])
    spelled = []
    for term, value in zip(terms, values, strict=True):
        rest = value.rank - len(term.replace("...", ""))
        spelled.append(term.replace("...", names[len(names) - rest :]))
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        right = "..." * ("..." in left) + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )
    return spelled, right.replace("...", names)


def _operand(
    n: Site, g: Value, place: int, terms: list[str], result: str, values: list[Value],
    extents: dict[str, Value],
) -> Answer:  # fmt: skip
    own, target, diagonals = terms[place], "", []
    free = [letter for letter in ascii_letters if letter not in "".join([*terms, result])]
    for axis, letter in enumerate(own):
        if letter in target:
            (extent,) = n.extents(values[place], [axis])
            diagonals.append((letter + (other := free.pop()), np.eye(extent)))
            target += other
        else:
            target += letter
    inputs = [(result, g)] + [
        (term, value) for i, (term, value) in enumerate(zip(terms, values, strict=True))
        if i != place
    ]  # fmt: skip
    inputs += [(term, n.b.constant(eye, g.dtype)) for term, eye in diagonals]
    present = set("".join(term for term, _ in inputs))
    for letter in dict.fromkeys(target):
        if letter not in present:
            shape: tuple[Dim, ...] = (values[place].shape[own.index(letter)],)
            inputs.append((letter, n.b.zeros(extents[letter], g.dtype, *shape) + 1.0))
    equation = ",".join(term for term, _ in inputs) + "->" + target
    return n.b.write(
        "Einsum", *(value for _, value in inputs), equation=equation,
        results=[(g.dtype, values[place].shape)],
    )[0]  # fmt: skip
