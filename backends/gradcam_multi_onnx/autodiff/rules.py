"""All rules of this package, collected by importing the modules that register them."""

from gradcam_multi_onnx.autodiff import (
    lowerings_fused,
    lowerings_quantized,
    rules_convolution,
    rules_einsum,
    rules_elementwise,
    rules_indexing,
    rules_linear,
    rules_none,
    rules_normalization,
    rules_pooling,
    rules_quantized,
    rules_reduction,
    rules_resize,
    rules_scatter,
    rules_shape,
)
from gradcam_multi_onnx.autodiff.registry import REGISTRY

__all__ = [
    "REGISTRY",
    "lowerings_fused",
    "lowerings_quantized",
    "rules_convolution",
    "rules_einsum",
    "rules_elementwise",
    "rules_indexing",
    "rules_linear",
    "rules_none",
    "rules_normalization",
    "rules_pooling",
    "rules_quantized",
    "rules_reduction",
    "rules_resize",
    "rules_scatter",
    "rules_shape",
]
