"""What Keras classes and TensorFlow operations are, for the choice of the default layer: tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gradcam_multi.spec import Role

_KERAS: tuple[tuple[str, Role], ...] = (
    (r".*Conv(\dD|LSTM|Transpose|$).*", "conv"),
    (r".*(Pool|UpSampling|ZeroPadding|Cropping|Resiz|Crop$).*|Pad|(Pad|Crop)Images", "pool"),
    (r".*Dropout|GaussianNoise|Identity|ActivityRegularization|Cast|Copy", "identity"),
    (r"Random.*|AugMix|CutMix|MixUp|RandAugment|AutoContrast|AugmentationLayer", "identity"),
    (r".*Attention", "attention"),
    (r".*Dense|.*Einsum|Matmul|Dot|Tensordot|RNN|LSTM|GRU|SimpleRNN", "linear"),
)
"""Names of Keras' own layers and `keras.ops` operations."""

_OPS: tuple[tuple[str, Role], ...] = (
    (r"(Depthwise)?Conv\d?D.*|Conv|XlaConv.*", "conv"),
    (r"(Max|Avg|Fractional).*Pool.*|Pad(V2)?|MirrorPad|Resize.*|CropAndResize.*", "pool"),
    (r".*MatMul.*|Einsum|XlaDot.*", "linear"),
)
"""Types of TensorFlow operations."""

_FUNCTIONS: tuple[tuple[str, Role], ...] = (
    (r".*conv(_transpose)?", "conv"),
    (r".*_pool|pad|resize|affine_transform|perspective_transform|map_coordinates", "pool"),
    (r"cast|copy|stop_gradient", "identity"),
    (r"dot_product_attention", "attention"),
    (r"matmul|einsum|dot|tensordot|inner|vdot", "linear"),
)
"""Names of the functions of Keras' backends."""

_PRODUCTS = (
    r".*MatMul.*|Matmul|Einsum|XlaDot.*|Dot|Tensordot|matmul|einsum|dot|tensordot|inner|vdot"
)
"""Of all three: attention where both operands depend on the data."""

MEASURES = frozenset("Shape ShapeN Size Rank".split())
"""TensorFlow operations whose results depend on no data."""

TRANSPARENT = frozenset(
    "Identity IdentityN Cast StopGradient PreventGradient EnsureShape CheckNumerics Placeholder "
    "PlaceholderWithDefault Snapshot ShapeN Shape Size Rank".split()
)
"""TensorFlow operations that are no step of a network: edges run through them unlisted."""


def of_class(operation: Any) -> Role | None:
    """Return the role of a Keras layer or operation by its nearest ancestor in Keras, or None."""
    for base in type(operation).__mro__:
        if base.__module__.partition(".")[0] == "keras":
            role = _match(_KERAS, base.__name__)
            if role is not None:
                return role
    return None


def of_types(types: Iterable[str]) -> Role:
    """Return the most telling role among TensorFlow operations."""
    found = {_match(_OPS, kind) for kind in types}
    for role in ("conv", "linear", "pool"):
        if role in found:
            return role
    return "other"


def of_product(role: Role, kind: str, operands: int) -> Role:
    """Return the role of an operation that has so many operands that depend on the data."""
    product = operands > 1 and re.fullmatch(_PRODUCTS, kind)
    return "attention" if role == "linear" and product else role


def lifted(op: Any) -> Any:
    """Return the convolution or pooling that a Squeeze undoes the added axis of, or None.

    TensorFlow convolves and pools signals as images of one row.
    """
    if op.type != "Squeeze":
        return None
    inner = op.inputs[0].op
    is_lifted = of_types([inner.type]) in ("conv", "pool") and len(inner.inputs) > 0
    return inner if is_lifted and inner.inputs[0].op.type == "ExpandDims" else None


def is_lifting(op: Any) -> bool:
    """Whether an operation is inside of what `lifted` finds."""
    users = [user for result in op.outputs for user in result.consumers()]
    if op.type == "ExpandDims":
        return bool(users) and all(is_lifting(user) for user in users)
    return bool(users) and all(lifted(user) is op for user in users)


def of_functions(names: Iterable[str]) -> Role:
    """Return the most telling role among functions of Keras' backends."""
    found = {_match(_FUNCTIONS, name) for name in names}
    for role in ("conv", "attention", "linear", "pool"):
        if role in found:
            return role
    return "identity" if found == {"identity"} else "other"


def of_keras_itself(operation: Any) -> bool:
    """Whether the class is Keras' own, so that its inside is no business of the user's."""
    return type(operation).__module__.partition(".")[0] == "keras"


def _match(table: tuple[tuple[str, Role], ...], name: str) -> Role | None:
    return next((role for pattern, role in table if re.fullmatch(pattern, name)), None)
