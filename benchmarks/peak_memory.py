"""Prints the peak memory, in MB, of one process that runs a model file on one picture.

Arguments: a file, and `plain` for an ONNX Runtime session or `ours` for a gradient at the final
feature map.
"""

import sys
from pathlib import Path

import numpy as np


def main(path: str, kind: str) -> None:
    x = np.zeros((1, 3, 224, 224), np.float32)
    if kind == "plain":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        session.run(None, {session.get_inputs()[0].name: x})
    else:
        from gradcam_multi import Explainer

        Explainer(path).several(x, [0])
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    print(int(status.split()[0]) / 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
