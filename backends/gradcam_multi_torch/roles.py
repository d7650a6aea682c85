"""PyTorch's functions as the choice of a layer sees them: names, roles, final activations."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from gradcam_multi.spec import Role

CONVOLUTIONS = (
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution "
    "convolution_mode mkldnn_convolution cudnn_convolution deform_conv2d"
)
MIXERS = (
    "linear mm addmm mv dot inner bilinear chain_matmul linalg_multi_dot multi_dot "
    "lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"
)
# Attention where at least two operands are results: then tokens mix, else channels by weights.
PRODUCTS = "matmul rmatmul bmm addbmm baddbmm einsum tensordot"
ATTENTION = (
    "scaled_dot_product_attention multi_head_attention_forward native_multi_head_attention "
    "transformer_encoder_layer_fwd"
)
POOLS = (
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices "
    "max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d lp_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d adaptive_max_pool1d_with_indices "
    "adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices fractional_max_pool2d "
    "fractional_max_pool3d fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices "
    "max_unpool1d max_unpool2d max_unpool3d interpolate upsample upsample_nearest "
    "upsample_bilinear pad grid_sample pixel_shuffle pixel_unshuffle fold unfold"
)
DROPOUTS = "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"
# Casts and copies hand the same numbers on; a dropout that returns its operand is listed too.
COPIES = "contiguous clone to type type_as float half bfloat16 double alias cpu cuda"

ROLES: dict[str, Role] = {
    **dict.fromkeys(CONVOLUTIONS.split(), "conv"),
    **dict.fromkeys(f"{MIXERS} {PRODUCTS}".split(), "linear"),
    **dict.fromkeys(ATTENTION.split(), "attention"),
    **dict.fromkeys(POOLS.split(), "pool"),
    **dict.fromkeys(DROPOUTS.split(), "identity"),
    **dict.fromkeys(COPIES.split(), "identity"),
}

_PRODUCTS = frozenset(PRODUCTS.split())

CUTS = frozenset({"detach", "data", "stop_gradient"})
"""Functions that hand no gradient back, so that no edge is recorded through them."""

ACTIVATIONS: dict[str, Literal["softmax", "sigmoid"]] = {
    "softmax": "softmax",
    "log_softmax": "softmax",
    "sigmoid": "sigmoid",
    "logsigmoid": "sigmoid",
}
"""Final functions that are stepped behind; a logarithm on top has the same logits."""


@cache
def plain_name(raw: str) -> str:
    """Drop an overload's suffix and the underscores of private, special and in-place names."""
    return raw.split(".")[0].strip("_")


def function_name(function: Callable[..., Any]) -> str:
    """Name a function as PyTorch's mode hands it over; a property's getter by its property."""
    raw = getattr(function, "__name__", "")
    if raw == "__get__":
        raw = getattr(getattr(function, "__self__", None), "__name__", raw)
    return plain_name(raw) or type(function).__name__


def role(name: str, results: int = 1) -> Role:
    """Tell the role of a function by its plain name and how many of its operands are results."""
    return "attention" if results > 1 and name in _PRODUCTS else ROLES.get(name, "other")
