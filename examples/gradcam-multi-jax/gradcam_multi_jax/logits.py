"""The logits behind a final softmax or sigmoid, found in the traced program."""

from typing import Literal

from gradcam_multi_jax.program import Program, Step

Activation = Literal["softmax", "sigmoid"]

NAMED: dict[str, Activation] = {
    "softmax": "softmax",
    "_softmax": "softmax",
    "log_softmax": "softmax",
    "sigmoid": "sigmoid",
    "logistic": "sigmoid",
}
_HANDING_ON = ("broadcast_in_dim", "reshape", "stop_gradient", "convert_element_type")


def behind(program: Program, value: int) -> tuple[int, Activation | None]:
    """Return the value of the logits behind an output, and the function between; else itself."""
    end = value
    while (step := program.maker.get(end)) is not None and step.kind == "convert_element_type":
        end = step.reads[0]
    if step is None:
        return value, None
    if step.kind in NAMED and isinstance(step.reads[0], int):
        return step.reads[0], NAMED[step.kind]
    logits = _spelled_out(program, step)
    return (value, None) if logits is None else (logits, "softmax")


def _spelled_out(program: Program, division: Step) -> int | None:
    """Match exp(x - max) / sum(exp(x - max)) over the last axis; return x."""
    if division.kind != "div" or len(division.sources) != 2:
        return None
    exponential, total = (_made(program, value) for value in division.sources)
    if exponential is None or exponential.kind != "exp":
        return None
    if total is None or total.kind != "reduce_sum" or total.reads != exponential.makes:
        return None
    if total.equation.params["axes"] != (len(program.avals[total.reads[0]].shape) - 1,):
        return None
    difference = _made(program, exponential.reads[0])
    if difference is None or difference.kind != "sub" or len(difference.sources) != 2:
        return None
    logits, largest = difference.sources
    seen = _made(program, largest)
    while seen is not None and seen.kind == "max" and len(seen.sources) == 1:
        seen = _made(program, seen.sources[0])
    if seen is None or seen.kind != "reduce_max" or seen.reads[0] != logits:
        return None
    return logits


def _made(program: Program, value: int) -> Step | None:
    """Return the step that makes a value, before steps that only hand it on."""
    step = program.maker.get(value)
    while step is not None and step.kind in _HANDING_ON:
        step = program.maker.get(step.reads[0])
    return step
