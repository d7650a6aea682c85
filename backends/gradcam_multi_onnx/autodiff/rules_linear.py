"""Matrix products."""

from gradcam_multi_onnx.autodiff.columns import by_columns
from gradcam_multi_onnx.autodiff.registry import ZERO, Answers, vjp
from gradcam_multi_onnx.autodiff.site import Site
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Shape


@vjp("Gemm", attributes=("alpha", "beta", "transA", "transB"))
def _gemm(n: Site, g: Value) -> Answers:
    a, b = n.x, n.input(1)
    alpha = n.attribute("alpha", 1.0)
    flip_a, flip_b = n.attribute("transA", 0), n.attribute("transB", 0)

    def product(one: Value, other: Value, one_t: int, other_t: int, like: Value) -> Value:
        return n.b.op(
            "Gemm", one, other, shape=like.shape, alpha=alpha, transA=one_t, transB=other_t
        )

    da = None if flip_a or 0 not in n.wanted else by_columns(n, g, flip_b, alpha)
    if da is None:
        da = product(b, g, flip_b, 1, a) if flip_a else product(g, b, 0, 1 - flip_b, a)
    db = product(g, a, 1, flip_a, b) if flip_b else product(a, g, 1 - flip_a, 0, b)
    return (da, db, g * n.attribute("beta", 1.0))[: len(n.node.input)]


@vjp("MatMul")
def _matmul(n: Site, g: Value) -> Answers:
    """Multiply by the transposes; vectors are rows or columns of one, as NumPy has it."""
    a, b = n.x, n.input(1)
    if n.wanted == {0} and (few := by_columns(n, g, flip=0, alpha=1.0)) is not None:
        return few, ZERO
    across, facing = a.shape[-1], b.shape[-2:][0]
    if isinstance(across, str) and isinstance(facing, int):
        n.b.told[across] = facing
    one = n.b.reshape(a, (1, *a.shape)) if a.rank == 1 else a
    other = n.b.reshape(b, (*b.shape, 1)) if b.rank == 1 else b
    shape: Shape = g.shape
    if b.rank == 1:
        shape = (*shape, 1)
    if a.rank == 1:
        shape = (*shape[:-1], 1, shape[-1])
    g = n.b.reshape(g, shape)
    da = n.b.matmul(g, _transposed(n, other)) if 0 in n.wanted else ZERO
    db = n.b.matmul(_transposed(n, one), g) if 1 in n.wanted else ZERO
    return (
        _from_vector(n, da, one, a) if isinstance(da, Value) else ZERO,
        _from_vector(n, db, other, b) if isinstance(db, Value) else ZERO,
    )


def _transposed(n: Site, value: Value) -> Value:
    lead = list(range(value.rank - 2))
    return n.b.transpose(value, [*lead, value.rank - 1, value.rank - 2])


def _from_vector(n: Site, g: Value, matrix: Value, original: Value) -> Value:
    if matrix is original:
        return g
    return n.b.reshape(n.b.sum_to(g, matrix), original.shape)
