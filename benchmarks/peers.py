"""Other libraries, called on our networks as their own pages say; those that are installed."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

Call = Callable[[], Any]

MODULES = {
    "torch": {"grad-cam": "pytorch_grad_cam", "torchcam": "torchcam", "captum": "captum"},
    "tensorflow": {
        "tf-keras-vis": "tf_keras_vis", "xplique": "xplique", "tf-explain": "tf_explain",
    },
}  # fmt: skip

SAMPLES = {
    "smoothgradcam++": 8, "ss-cam": 4, "is-cam": 10, "rise": 256, "smoothgrad": 8,
    "integrated-gradients": 8,
}  # fmt: skip
"""The noisy copies, masks or steps that everyone takes, so that the work is the same."""


def installed(framework: str) -> list[str]:
    """Return the names of the framework's peers that are installed."""
    return [name for name, module in MODULES.get(framework, {}).items() if find_spec(module)]


def peers_of(
    framework: str, method: str, model: Any, layer: str, x: np.ndarray, target: int = 0,
    only: str | None = None,
) -> dict[str, Call]:  # fmt: skip
    """Return a call for each installed peer, or for one, that has the method and runs the model.

    Each explains the whole batch `x`, in the model's layout, for the class `target`, and returns
    what its user would go on with. A peer that fails is left out with a warning.
    """
    names = [name for name in installed(framework) if only in (None, name)]
    if not names:
        return {}
    if framework == "torch":
        from peers_torch import PEERS
    else:
        from peers_tensorflow import PEERS
    found = {}
    for name in names:
        try:
            call = PEERS[name](method, model, layer, x, target)
            if call is not None:
                call()
                found[name] = call
        except Exception as error:
            told = str(error).splitlines() or [""]
            warnings.warn(
                f"{name} fails at {method}: {type(error).__name__}: {told[0]}", stacklevel=2
            )
    return found
