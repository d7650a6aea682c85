"""Exports networks by Keras' own export under its torch backend; run in a process of its own.

Arguments: a folder, then names of `exports_keras.NETWORKS`; writes NAME.onnx into the folder.
"""

import os
import sys
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"  # before keras is imported


def main(folder: str, *names: str) -> None:
    import exports_keras
    import numpy as np

    for name in names:
        model = exports_keras.built(exports_keras.NETWORKS[name])
        model(np.zeros((2, *model.input_shape[1:]), np.float32))  # never called, it is refused
        model.export(Path(folder) / f"{name}.onnx", format="onnx", verbose=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
