"""All rules of this package, collected by importing the modules that register them.

Third parties add theirs, for their own domains, by an entry point of the group
``gradcam_multi_onnx.rules`` that names a module in which `vjp` or `lowering` are called.
"""

from importlib.metadata import entry_points

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
    "BROKEN",
    "REGISTRY",
    "load_rules",
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

GROUP = "gradcam_multi_onnx.rules"
BROKEN: dict[str, Exception] = {}
"""Third parties' modules that failed to import: their operators stay without a rule."""


def load_rules() -> None:
    """Import what third parties have registered; a broken one does not take the others down."""
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            BROKEN[entry.name] = error


load_rules()
