"""Other libraries, called on our networks as their own pages say; those that are installed."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

Call = Callable[[], Any]


def peers_of(
    framework: str, method: str, model: Any, layer: str, x: np.ndarray, target: int = 0
) -> dict[str, Call]:
    """Return a call for each installed peer that has the method and works on the model.

    Each explains the whole batch `x`, in the model's layout, for the class `target`, and returns
    what its user would go on with. A peer that fails is left out with a warning.
    """
    if framework == "torch":
        from peers_torch import PEERS
    elif framework == "tensorflow":
        from peers_tensorflow import PEERS
    else:
        return {}
    found = {}
    for name, prepare in PEERS.items():
        try:
            call = prepare(method, model, layer, x, target)
            if call is not None:
                call()
                found[name] = call
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in OWN_MODULES:
                warnings.warn(f"{name} cannot be imported: {error}", stacklevel=2)
        except Exception as error:
            told = str(error).splitlines() or [""]
            warnings.warn(
                f"{name} fails at {method}: {type(error).__name__}: {told[0]}", stacklevel=2
            )
    return found


OWN_MODULES = {"pytorch_grad_cam", "torchcam", "captum", "tf_keras_vis", "xplique", "tf_explain"}
"""Where one of these is missing the peer is not installed, which is no failure."""
