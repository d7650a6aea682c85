"""How many bytes the elements of a tensor fill."""

from onnx import TensorProto


def byte_size(tensor: TensorProto) -> int | None:
    """Return how many bytes a tensor's elements fill, or None where they have no fixed size."""
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        return None
    count = 1
    for extent in tensor.dims:
        count *= extent
    return -(-count * bits // 8)


_BITS = {
    code: bits
    for bits, names in (
        (2, ("UINT2", "INT2")),
        (4, ("UINT4", "INT4", "FLOAT4E2M1")),
        (8, ("UINT8", "INT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2",
             "FLOAT8E5M2FNUZ", "FLOAT8E8M0")),
        (16, ("UINT16", "INT16", "FLOAT16", "BFLOAT16")),
        (32, ("UINT32", "INT32", "FLOAT")),
        (64, ("UINT64", "INT64", "DOUBLE", "COMPLEX64")),
        (128, ("COMPLEX128",)),
    )
    for name in names
    if (code := getattr(TensorProto, name, None)) is not None  # the newest: newer onnx only
}  # fmt: skip
