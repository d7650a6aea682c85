"""JAX functions and Flax NNX modules for gradcam_multi."""

from gradcam_multi_jax.function import JaxModel

__all__ = ["JaxModel"]
