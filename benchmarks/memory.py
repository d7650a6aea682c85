"""Prints the memory, in MB, of one process that runs a model file on one picture.

Arguments: a file, and `plain` for an ONNX Runtime session or `ours` for a gradient at the final
feature map. Three figures: after the imports, at the highest, and after some runs.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

RUNS = 5
PICTURE = np.zeros((1, 3, 224, 224), np.float32)


def megabytes(field: str) -> float:
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text().split(f"{field}:")[1]
    return int(status.split()[0]) / 1024


def plain(path: str) -> Callable[[], object]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: PICTURE})


def ours(path: str) -> Callable[[], object]:
    from gradcam_multi import Explainer

    explainer = Explainer(path)
    return lambda: explainer.several(PICTURE, [0])


KINDS = {
    "plain": (plain, ["onnxruntime"]),
    "ours": (ours, ["gradcam_multi", "gradcam_multi_onnx.model"]),
}
"""Who makes a call of a file, and what it imports for any model."""


def main(path: str, kind: str) -> None:
    make, modules = KINDS[kind]
    for module in modules:
        import_module(module)
    imported = megabytes("VmRSS")
    call = make(path)
    for _ in range(RUNS):
        call()
    print(imported, megabytes("VmHWM"), megabytes("VmRSS"))


if __name__ == "__main__":
    main(*sys.argv[1:])
