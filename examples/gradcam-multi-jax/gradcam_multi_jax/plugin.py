"""What the entry point names: claims JAX models without importing JAX."""

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gradcam_multi import MissingExtraError, hookimpl
from gradcam_multi_jax.function import JaxModel

if TYPE_CHECKING:
    from gradcam_multi import Model


@hookimpl
def gradcam_multi_open(model: Any) -> "Model | None":
    """Open a JaxModel or a flax.nnx.Module; None for anything else.

    Raises MissingExtraError where JAX is absent.
    """
    module = _is_nnx(model)
    if not (module or isinstance(model, JaxModel)):
        return None
    if find_spec("jax") is None:
        raise MissingExtraError(
            f"cannot open a {type(model).__name__}: JAX is not installed; run: pip install jax"
        )
    from gradcam_multi_jax.model import OpenedModel
    from gradcam_multi_jax.source import FunctionSource, ModuleSource

    return OpenedModel(ModuleSource(model) if module else FunctionSource(model))


def _is_nnx(model: Any) -> bool:
    return any(
        cls.__module__.startswith("flax.nnx") and cls.__name__ == "Module"
        for cls in type(model).__mro__
    )
