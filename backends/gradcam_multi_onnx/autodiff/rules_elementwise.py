"""Elementwise operators: activations, functions, broadcasting arithmetic, selections.

Where both serve, a rule reads the result rather than the input: a result is kept by the forward
run without breaking up the kernel that fuses an activation into the convolution before it.
"""

from collections.abc import Callable
from math import pi, sqrt

import numpy as np
from onnx import TensorProto

from gradcam_multi_onnx.autodiff.activations import sigmoid, swish_slope, through_relu
from gradcam_multi_onnx.autodiff.registry import ZERO, Answer, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Operand, Value
from gradcam_multi_onnx.graph import FLOATS

Unary = Callable[[Site, Value], Value]


def _leaky_relu(n: Site, g: Value) -> Value:
    alpha = n.attribute("alpha", 0.01)
    return n.b.where((n.y if alpha >= 0 else n.x) > 0, g, g * alpha)


def _elu(n: Site, g: Value) -> Value:
    alpha = n.attribute("alpha", 1.0)
    return n.b.where((n.y if alpha >= 0 else n.x) > 0, g, g * (n.y + alpha))


def _selu(n: Site, g: Value) -> Value:
    alpha = n.attribute("alpha", 1.67326319217681884765625)
    gamma = n.attribute("gamma", 1.05070102214813232421875)
    return n.b.where(n.x > 0, g * gamma, g * (n.y + gamma * alpha))


def _celu(n: Site, g: Value) -> Value:
    return n.b.where(n.x > 0, g, g * (n.y / n.attribute("alpha", 1.0) + 1))


def _thresholded_relu(n: Site, g: Value) -> Value:
    return n.b.masked(g, n.x > n.attribute("alpha", 1.0))


def _hard_sigmoid(n: Site, g: Value) -> Value:
    inside = n.b.masked(g * n.attribute("alpha", 0.2), n.y > 0)
    return n.b.masked(inside, n.y < 1)


def _hard_swish(n: Site, g: Value) -> Value:
    inside = n.b.where(n.x > -3, g * (n.x / 3 + 0.5), 0)
    return n.b.where(n.x < 3, inside, g)


def _gelu(n: Site, g: Value) -> Value:
    x = n.x
    if n.attribute("approximate", "none") == "none":
        density = n.b.map("Exp", x * x * -0.5) * (1 / sqrt(2 * pi))
        return g * ((n.b.map("Erf", x * sqrt(0.5)) + 1) * 0.5 + x * density)
    t = n.b.map("Tanh", (x + x * x * x * 0.044715) * sqrt(2 / pi))
    slope = (x * x * (3 * 0.044715) + 1) * sqrt(2 / pi)
    return g * ((t + 1) * 0.5 + x * 0.5 * (1 - t * t) * slope)


def _mish(n: Site, g: Value) -> Value:
    t = n.b.map("Tanh", n.b.map("Softplus", n.x))
    return g * (t + n.x * (1 - t * t) * sigmoid(n.x))


def _swish(n: Site, g: Value) -> Value:
    alpha: float = n.attribute("alpha", 1.0)
    return g * swish_slope(n.x * alpha if alpha != 1 else n.x)


def _shrink(n: Site, g: Value) -> Value:
    return n.b.where(n.b.map("Abs", n.x) > n.attribute("lambd", 0.5), g, 0)


def _softsign(n: Site, g: Value) -> Value:
    shrunk = 1 - n.b.map("Abs", n.y)
    return g * shrunk * shrunk


def _cast(n: Site, g: Value) -> Value:
    # Back to the input's type, but for integers that stand for floats. A cast to integers rounds.
    if n.y.dtype not in FLOATS:
        return g * 0
    return n.b.cast(g, n.x.dtype) if n.x.dtype in FLOATS else g


UNARY: dict[str, tuple[Unary, tuple[str, ...]]] = {
    "Abs": (lambda n, g: g * n.b.map("Sign", n.x), ()),
    "Acos": (lambda n, g: -g / n.b.map("Sqrt", 1 - n.x * n.x), ()),
    "Acosh": (lambda n, g: g / n.b.map("Sqrt", n.x * n.x - 1), ()),
    "Asin": (lambda n, g: g / n.b.map("Sqrt", 1 - n.x * n.x), ()),
    "Asinh": (lambda n, g: g / n.b.map("Sqrt", n.x * n.x + 1), ()),
    "Atan": (lambda n, g: g / (n.x * n.x + 1), ()),
    "Atanh": (lambda n, g: g / (1 - n.x * n.x), ()),
    "Cast": (_cast, ("to", "saturate", "round_mode")),
    "CastLike": (_cast, ("saturate", "round_mode")),
    "Celu": (_celu, ("alpha",)),
    "Cos": (lambda n, g: -g * n.b.map("Sin", n.x), ()),
    "Cosh": (lambda n, g: g * n.b.map("Sinh", n.x), ()),
    "Elu": (_elu, ("alpha",)),
    "Erf": (lambda n, g: g * n.b.map("Exp", -(n.x * n.x)) * (2 / sqrt(pi)), ()),
    "Exp": (lambda n, g: g * n.y, ()),
    "Gelu": (_gelu, ("approximate",)),
    "HardSigmoid": (_hard_sigmoid, ("alpha", "beta")),
    "HardSwish": (_hard_swish, ()),
    "Identity": (lambda n, g: g, ()),
    "LeakyRelu": (_leaky_relu, ("alpha",)),
    "Log": (lambda n, g: g / n.x, ()),
    "Mish": (_mish, ()),
    "Neg": (lambda n, g: -g, ()),
    "Reciprocal": (lambda n, g: -g * n.y * n.y, ()),
    "Relu": (lambda n, g: through_relu(n.y, g), ()),
    "Selu": (_selu, ("alpha", "gamma")),
    "Shrink": (_shrink, ("bias", "lambd")),
    "Sigmoid": (lambda n, g: g * n.y * (1 - n.y), ()),
    "Sin": (lambda n, g: g * n.b.map("Cos", n.x), ()),
    "Sinh": (lambda n, g: g * n.b.map("Cosh", n.x), ()),
    "Softplus": (lambda n, g: g * sigmoid(n.x), ()),
    "Softsign": (_softsign, ()),
    "Sqrt": (lambda n, g: g / (n.y * 2), ()),
    "Swish": (_swish, ("alpha",)),
    "Tan": (lambda n, g: g * (n.y * n.y + 1), ()),
    "Tanh": (lambda n, g: g * (1 - n.y * n.y), ()),
    "ThresholdedRelu": (_thresholded_relu, ("alpha",)),
}
"""Operator: the input's cotangent from the result's, and the attributes understood."""


def _register_unary(op: str, derivative: Unary, attributes: tuple[str, ...]) -> None:
    def rule(n: Site, g: Value) -> Answers:
        return (derivative(n, g), *(ZERO for _ in n.node.input[1:]))

    vjp(op, attributes=attributes, quantised=op in ("Cast", "Identity"))(rule)


for _op, (_derivative, _attributes) in UNARY.items():
    _register_unary(_op, _derivative, _attributes)


@vjp("Add")
def _add(n: Site, g: Value) -> Answers:
    return g, g


@vjp("Sub")
def _sub(n: Site, g: Value) -> Answers:
    return g, -g


@vjp("Mul")
def _mul(n: Site, g: Value) -> Answers:
    place = n.gated_by_itself(n.node)
    if place is not None:  # all at once: fewer products, and the sigmoid need not be kept
        answers: list[Answer] = [ZERO, ZERO]
        answers[place] = g * swish_slope(n.input(place))
        return answers
    return g * n.factor(1), g * n.factor(0)


@vjp("Div")
def _div(n: Site, g: Value) -> Answers:
    divided = g / n.input(1)
    return divided, -divided * n.y


@vjp("Sum")
def _sum(n: Site, g: Value) -> Answers:
    return (g,) * len(n.node.input)


@vjp("Mean")
def _mean(n: Site, g: Value) -> Answers:
    return (g / len(n.node.input),) * len(n.node.input)


@vjp("Max", "Min")
def _extremum(n: Site, g: Value) -> Answers:
    """Split the gradient among equals, as torch.maximum does."""
    chosen = [n.b.equal(n.y, n.input(i)) for i in range(len(n.node.input))]
    total = chosen[0]
    for mask in chosen[1:]:
        total = total + mask
    return tuple(g * mask / total for mask in chosen)


@vjp("Where")
def _where(n: Site, g: Value) -> Answers:
    return ZERO, n.b.where(n.x, g, 0), n.b.where(n.x, 0, g)


@vjp("PRelu")
def _prelu(n: Site, g: Value) -> Answers:
    positive = n.x > 0
    return n.b.where(positive, g, g * n.input(1)), n.b.where(positive, 0, g * n.x)


@vjp("Pow")
def _pow(n: Site, g: Value) -> Answers:
    power = n.b.cast(n.input(1), n.x.dtype)
    known = n.constant(1)
    if known is not None and known.size == 1:
        base = _power_slope(n, float(known.reshape(-1)[0]))
    else:
        # p * x^(p-1) is 0 * inf where both are 0
        base = n.b.where(
            n.b.map("Equal", power, 0, dtype=TensorProto.BOOL), 0, power * n.x ** (power - 1)
        )
    if 1 not in n.wanted:
        return g * base, ZERO
    safe = n.b.where(n.x > 0, n.x, 1)
    return g * base, g * n.y * n.b.map("Log", safe)


def _power_slope(n: Site, p: float) -> Operand:
    if p in (0.0, 1.0):
        return p
    if p == 2.0:
        return n.x * 2.0
    return n.x ** (p - 1.0) * p


@vjp("Mod", attributes=("fmod",))
def _mod(n: Site, g: Value) -> Answers:
    """With y = x - d * (x/d rounded down, or towards 0 as fmod has it)."""
    times = (n.x - n.y) / n.input(1) if 1 in n.wanted else n.x
    return g, -g * times


@vjp("Clip", attributes=("min", "max"))
def _clip(n: Site, g: Value) -> Answers:
    """Pass the gradient strictly between the bounds, as ReLU6 has it in every framework."""
    lowest, highest = np.finfo(np.float32).min, np.finfo(np.float32).max
    answers: list[Answer] = [g]
    through = g
    for place, (name, free) in enumerate((("min", lowest), ("max", highest)), start=1):
        bound: Operand | None = None
        if n.opset < 11:
            stated = n.attribute(name, free)
            bound = None if stated in (lowest, highest) else stated
        elif n.has(place):
            bound = n.input(place)
        if bound is not None:
            inside = n.y > bound if name == "min" else n.y < bound
            through = n.b.masked(through, inside)
            if place in n.wanted:
                answers.append(_to_bound(n, g, place))
                continue
        answers.append(ZERO)
    answers[0] = through
    return answers[: len(n.node.input)]


def _to_bound(n: Site, g: Value, place: int) -> Value:
    """Return what a bound gets: all that it cut off, the upper one first where they cross."""
    raised = n.b.map("Max", n.x, n.input(1)) if n.has(1) else n.x
    over = raised > n.input(2) if n.has(2) else None
    if place == 2:
        assert over is not None
        return n.b.where(over, g, 0)
    cut = n.b.where(n.x < n.input(1), g, 0)
    return cut if over is None else n.b.where(over, 0, cut)


@vjp("Dropout", attributes=("ratio", "seed"))
def _dropout(n: Site, g: Value) -> Answers:
    if n.has(2):
        training = n.constant(2)
        if training is None or bool(training):
            n.refuse("it runs in training mode")
    return (g, *(ZERO for _ in n.node.input[1:]))
