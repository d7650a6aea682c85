"""Prints the peak memory, in MB, of one process that runs a model on a batch of pictures.

Arguments: a framework, a model's file, a batch, and `plain` or `ours`. The peak is that of the
calls, the model held and the framework imported: opening a model is not counted, and is the same
for both. Resident memory, from the kernel's own high-water mark.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from networks import inputs

RUNS = 5


def megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text().split(f"{field}:")[1]
    return int(status.split()[0]) / 1024


def read(framework: str, path: str) -> tuple[Any, Callable[[np.ndarray], Any]]:
    """Return what an explainer opens, and plain inference."""
    if framework == "onnx":
        from adapters import session_call

        return path, session_call(path)
    if framework == "tensorflow":
        import keras
        import networks_keras  # noqa: F401, its layers are in the file
        from adapters import channels_last, function_call

        model = keras.saving.load_model(path, safe_mode=False)
        function = function_call(model)
        return model, lambda x: function(channels_last(x))
    import torch

    module = torch.load(path, weights_only=False, mmap=True)

    def plain(x: np.ndarray) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(x)).numpy()

    return module, plain


def main(framework: str, path: str, batch: str, kind: str) -> None:
    x = inputs(int(batch))
    model, call = read(framework, path)
    if kind == "ours":
        from adapters import channels_last

        from gradcam_multi import Explainer

        explainer = Explainer(model)
        x = channels_last(x) if framework == "tensorflow" else x
        call = lambda x: explainer(x, 0).heatmap  # noqa: E731
    for _ in range(RUNS):
        call(x)
    print(megabytes("VmHWM"))


if __name__ == "__main__":
    main(*sys.argv[1:])
