"""Operators on quantised integers, as the same on floats between DequantizeLinear and its inverse.

QLinearX(x, scale, zero point, ..., y's scale, y's zero point) is X with quantisation around it.
"""

from collections.abc import Callable

from gradcam_multi_onnx.autodiff.lowering import Parts
from gradcam_multi_onnx.autodiff.lowerings_fused import DOMAIN
from gradcam_multi_onnx.autodiff.registry import lowering
from gradcam_multi_onnx.autodiff.windows import ATTRIBUTES as WINDOWS

_CONV = (*WINDOWS, "group")
_POOL = (*WINDOWS, "ceil_mode", "count_include_pad")


def _float(n: Parts, place: int, *, axis: int = 0) -> str:
    """Write the dequantisation of an input, whose scale and zero point follow it."""
    return n.op("DequantizeLinear", n[place], n[place + 1], n[place + 2], axis=axis)


def _quantized(n: Parts, value: str, place: int) -> None:
    """Give a value, quantised with the scale and zero point at a place."""
    n.give(n.op("QuantizeLinear", value, n[place], n[place + 1], axis=0))


@lowering("QLinearConv", attributes=(*_CONV, "channels_last"), since=10, quantised=True)
@lowering("QLinearConv", attributes=(*_CONV, "channels_last"), domain=DOMAIN, quantised=True)
def _conv(n: Parts) -> None:
    """Leave the bias out: a constant has no part in the gradient."""
    if n.attribute("channels_last", 0):
        rank = n.rank(0)
        x = n.op("Transpose", _float(n, 0), perm=[0, rank - 1, *range(1, rank - 1)])
        y = n.op("Conv", x, _float(n, 3), **n.kept(_CONV))
        _quantized(n, n.op("Transpose", y, perm=[0, *range(2, rank), 1]), 6)
    else:
        _quantized(n, n.op("Conv", _float(n, 0), _float(n, 3), **n.kept(_CONV)), 6)


@lowering("QLinearMatMul", since=10, quantised=True)
def _matmul(n: Parts) -> None:
    a, b = _float(n, 0), _float(n, 3, axis=max(n.rank(3) - 1, 0))
    _quantized(n, n.op("MatMul", a, b), 6)


@lowering("QGemm", attributes=("alpha", "transA", "transB"), domain=DOMAIN, quantised=True)
def _gemm(n: Parts) -> None:
    b = _float(n, 3, axis=0 if n.attribute("transB", 0) else 1)
    y = n.op("Gemm", _float(n, 0), b, **n.kept(("alpha", "transA", "transB")))
    if n[7]:
        _quantized(n, y, 7)
    else:
        n.give(y)


def _binary(op: str) -> None:
    @lowering(f"QLinear{op}", domain=DOMAIN, quantised=True)
    def rule(n: Parts) -> None:
        _quantized(n, n.op(op, _float(n, 0), _float(n, 3)), 6)


for _op in ("Add", "Mul"):
    _binary(_op)


def _unary(op: str, attributes: tuple[str, ...], write: Callable[[Parts, str], str]) -> None:
    @lowering(f"QLinear{op}", attributes=attributes, domain=DOMAIN, quantised=True)
    def rule(n: Parts) -> None:
        if n.attribute("channels_last", 0):
            n.refuse("its channels are last")
        _quantized(n, write(n, _float(n, 0)), 3)


_unary("Sigmoid", (), lambda n, x: n.op("Sigmoid", x))
_unary("LeakyRelu", ("alpha",), lambda n, x: n.op("LeakyRelu", x, **n.kept(("alpha",))))
_unary(
    "AveragePool", (*_POOL, "channels_last"), lambda n, x: n.op("AveragePool", x, **n.kept(_POOL))
)
_unary("GlobalAveragePool", ("channels_last",), lambda n, x: n.op("GlobalAveragePool", x))


@lowering("QLinearSoftmax", attributes=("axis", "opset"), domain=DOMAIN, quantised=True)
def _softmax(n: Parts) -> None:
    if n.attribute("opset", 13) < 13:
        n.refuse("it is a softmax from before opset 13")
    _quantized(n, n.op("Softmax", _float(n, 0), axis=n.attribute("axis", -1)), 3)


@lowering("QLinearConcat", attributes=("axis",), domain=DOMAIN, quantised=True)
def _concat(n: Parts) -> None:
    parts = [_float(n, place) for place in range(2, len(n.node.input), 3)]
    _quantized(n, n.op("Concat", *parts, axis=n.attribute("axis")), 0)


def _shifted(n: Parts, place: int, zero: str) -> str:
    """Write an integer input less its zero point, as a float."""
    return n.op("DequantizeLinear", n[place], n.constant(1), zero, axis=0)


@lowering("ConvInteger", attributes=_CONV, since=10, quantised=True)
def _conv_integer(n: Parts) -> None:
    n.give(n.op("Conv", _shifted(n, 0, n[2]), _shifted(n, 1, n[3]), **n.kept(_CONV)))


@lowering("MatMulInteger", since=10, quantised=True)
def _matmul_integer(n: Parts) -> None:
    n.give(n.op("MatMul", _shifted(n, 0, n[2]), _shifted(n, 1, n[3])))


@lowering("MatMulIntegerToFloat", domain=DOMAIN, quantised=True)
def _matmul_to_float(n: Parts) -> None:
    a = n.op("DequantizeLinear", n[0], n[2], n[4], axis=0)
    b = n.op("DequantizeLinear", n[1], n[3], n[5], axis=max(n.rank(1) - 1, 0))
    y = n.op("MatMul", a, b)
    n.give(n.op("Add", y, n[6]) if n[6] else y)


@lowering("DynamicQuantizeMatMul", domain=DOMAIN)
def _dynamic_matmul(n: Parts) -> None:
    """Quantisation that nothing saturates passes everything: only the weight's is left."""
    b = n.op("DequantizeLinear", n[1], n[2], n[3], axis=max(n.rank(1) - 1, 0))
    y = n.op("MatMul", n[0], b)
    n.give(n.op("Add", y, n[4]) if n[4] else y)
