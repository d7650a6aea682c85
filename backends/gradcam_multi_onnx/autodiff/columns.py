"""Matrix products with a cotangent of few classes: only their weights are read.

The cotangent of one class is zero but for a column. A classifier's weights have left the caches
by the time that the gradient multiplies them: to read 5 MB took a tenth of MobileNetV2's inference.
"""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value, count

_MANY = 200_000  # elements of a weight: fewer are multiplied in the time that a choice takes
_FEW = 8  # of so many columns one may be read apart; more are sooner multiplied in one piece


def by_columns(n: Site, g: Value, flip: int, alpha: float) -> Value | None:
    """Return alpha times g (N, M) times the second input's transpose, by g's columns that count.

    The second input is (C, M), or (M, C) where `flip` says so. Returns None where it is not worth
    while: it must be a large constant, and g the cotangent that came from outside.
    """
    weight, b = n.input(1), n.b
    size = count(weight.shape)
    suited = g.name == b.local and g.dtype == weight.dtype == TensorProto.FLOAT
    if not suited or not n.graph.constant(weight.name) or weight.rank != 2 or g.rank != 2:
        return None
    if size is None or size <= _MANY:
        return None
    classes = int(weight.shape[0 if flip else 1])
    columns, few = _columns(g, classes)
    shape = (g.shape[0], weight.shape[1 if flip else 0])
    part, rows = b.fresh("part"), b.fresh("rows")
    product = {"transB": 1 - flip, "alpha": alpha}
    by_part = [
        onnx.helper.make_node("Gather", [weight.name, columns.name], [rows], axis=1 - flip),
        onnx.helper.make_node("Gather", [g.name, columns.name], [part], axis=1),
        _gemm(part, rows, b.fresh("few"), **product),
    ]
    whole = [_gemm(g.name, weight.name, b.fresh("all"), **product)]
    branches = {
        key: onnx.helper.make_graph(
            nodes, key, [],
            [onnx.helper.make_tensor_value_info(nodes[-1].output[0], g.dtype, shape)],
        )
        for key, nodes in (("then_branch", by_part), ("else_branch", whole))
    }  # fmt: skip
    return b.write("If", few, results=[(g.dtype, shape)], **branches)[0]


def _columns(g: Value, classes: int) -> tuple[Value, Value]:
    """Return the indices of g's columns with something in them, and whether they are few.

    The first column is always among them: not every runtime multiplies over an axis of none.
    """
    b = g.builder
    sums = b.op("ReduceL1", g, b.integers([0]), shape=(classes,), keepdims=0)
    counting = sums + b.constant(np.arange(classes) == 0, g.dtype)
    found = b.write("NonZero", counting, results=[(TensorProto.INT64, (1, "columns"))])[0]
    size = b.write("Size", found, results=[(TensorProto.INT64, ())])[0]
    columns = b.op("Reshape", found, b.integers([-1]), shape=("columns",))
    return columns, size < classes // _FEW


def _gemm(one: str, other: str, result: str, **attributes: float) -> NodeProto:
    return onnx.helper.make_node("Gemm", [one, other], [result], **attributes)
