"""Quantisation, straight through: the rounding is left out, the saturation is not.

Bengio et al., 2013 (arXiv:1308.3432). In quantised models ReLU often is the saturation at the
lowest integer, so the bounds are strict: a saturated value passes nothing.
"""

from onnx import TensorProto, helper

from gradcam_multi_onnx.autodiff.registry import ZERO, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Dim

_ATTRIBUTES = ("axis", "block_size", "output_dtype", "precision", "saturate")
_BITS = {
    TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127), TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767), TensorProto.UINT4: (0, 15), TensorProto.INT4: (-8, 7),
}  # fmt: skip


def _scale(n: Site, like: Value, dtype: int) -> Value:
    """Return the scale in a shape that broadcasts along the quantised axis."""
    scale = n.b.cast(n.input(1), dtype)
    if n.attribute("block_size", 0):
        n.refuse("it is quantised in blocks")
    if scale.rank == 0 or like.rank == 0 or scale.shape == (1,):
        return scale if scale.rank == 0 else n.b.reshape(scale, ())
    axis = n.axis(1, like.rank)
    shape: tuple[Dim, ...] = tuple(
        scale.shape[0] if place == axis else 1 for place in range(like.rank)
    )
    return n.b.reshape(scale, shape)


@vjp("DequantizeLinear", attributes=_ATTRIBUTES, since=10, quantised=True)
@vjp("DequantizeLinear", attributes=_ATTRIBUTES, domain="com.microsoft", quantised=True)
def _dequantize(n: Site, g: Value) -> Answers:
    if 1 in n.wanted:
        n.refuse("its scale depends on the layer")
    return (g * _scale(n, n.x, g.dtype), *(ZERO for _ in n.node.input[1:]))


@vjp("QuantizeLinear", attributes=_ATTRIBUTES, since=10, quantised=True)
@vjp("QuantizeLinear", attributes=_ATTRIBUTES, domain="com.microsoft", quantised=True)
def _quantize(n: Site, g: Value) -> Answers:
    if 1 in n.wanted:
        n.refuse("its scale depends on the layer")
    divided = g / _scale(n, n.x, g.dtype)
    return (_unsaturated(n, divided), *(ZERO for _ in n.node.input[1:]))


def _unsaturated(n: Site, g: Value) -> Value:
    bounds = _BITS.get(n.y.dtype)
    if bounds is None:
        name = helper.tensor_dtype_to_string(n.y.dtype).removeprefix("TensorProto.")
        n.refuse(f"it quantises to {name}")
    y = n.b.cast(n.y, g.dtype)
    return n.b.where(y > float(bounds[0]), n.b.where(y < float(bounds[1]), g, 0), 0)


@vjp("DynamicQuantizeLinear", several=True, since=11, quantised=True)
def _dynamic(n: Site, _: Value) -> Answers:
    """Take the scale as given: it moves with the extremes only, which nothing saturates."""
    g = n.cotangents[0]
    return (ZERO,) if g is None else (g / n.result(1),)
