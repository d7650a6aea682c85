"""Prints the memory, in MB, of one process that runs a model on batches of pictures.

Arguments: a framework, a model's file, a published network's name, who runs it (`plain`, `ours` or
a peer), a method, and batches, the smallest first. Printed are the memory after the imports, the
peak after the calls of each batch: of all that the process has held, opening the model included,
building it not. Resident memory, from the kernel's own high-water mark; not getrusage's, which is
inherited from the process that started this one.
"""

import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from inference import LAYOUT, PLAIN
from networks import NETWORKS, inputs

RUNS = 2  # the second is planned by what the first has allocated
NO_PEER = 77  # the exit code where a peer does not work on the model
IMPORTS = {
    "onnx": ("onnxruntime", "gradcam_multi_onnx.model"), "torch": ("torch", "gradcam_multi_torch"),
    "tensorflow": ("tensorflow", "gradcam_multi_tensorflow"),
}  # fmt: skip
"""What plain inference imports for any model, and what ours imports beside it."""

Call = Callable[[], Any]


def megabytes(field: str) -> float:
    status = Path("/proc/self/status").read_text().split(f"{field}:")[1]
    return int(status.split()[0]) / 1024


def read(framework: str, path: str) -> Any:
    """Return what an explainer opens."""
    if framework == "onnx":
        return path
    if framework == "tensorflow":
        import keras
        import networks_keras  # noqa: F401, its layers are in the file

        return keras.saving.load_model(path, safe_mode=False)
    import torch

    return torch.load(path, weights_only=False, mmap=True)


def caller(
    framework: str, model: Any, name: str, who: str, method: str
) -> Callable[[np.ndarray], Call]:
    """Return what makes a call for a batch in the model's own layout."""
    if who == "plain":
        plain = PLAIN[framework](model)
        return lambda x: lambda: plain(x)
    if who == "ours":
        from gradcam_multi import Explainer

        explainer = Explainer(model, method=method)
        return lambda x: lambda: explainer(x, 0).heatmap
    from peers import peers_of

    def peer(x: np.ndarray) -> Call:
        found = peers_of(framework, method, model, NETWORKS[name].layer, x, only=who)
        return found[who] if found else sys.exit(NO_PEER)

    return peer


def main(framework: str, path: str, name: str, who: str, method: str, *batches: str) -> None:
    theirs, beside = IMPORTS[framework]
    import_module(theirs)
    if who == "ours":
        warnings.simplefilter("ignore")  # random weights may leave a map without evidence
        import_module("gradcam_multi")
        import_module(beside)
    figures = [megabytes("VmRSS")]
    make = caller(framework, read(framework, path), name, who, method)
    for batch in map(int, batches):
        call = make(LAYOUT[framework](inputs(batch)))
        for _ in range(RUNS):
            call()
        figures.append(megabytes("VmHWM"))
    print(*figures)


if __name__ == "__main__":
    main(*sys.argv[1:])
