"""A program: reads a Keras file and writes it as ONNX; run with KERAS_BACKEND=torch."""

import sys
import warnings
from pathlib import Path
from typing import Any


def main(stored: str, target: str, trust: str) -> None:
    """Load and export."""
    import keras

    write(keras.saving.load_model(stored, compile=False, safe_mode=trust == "safe"), target)


def write(model: Any, target: str | Path) -> None:
    """Write a Keras model as ONNX by Keras' own export, or else by PyTorch's newer one.

    Keras goes by PyTorch's tracing exporter, which takes no sizes that are computed: that of
    Xception's strided shortcuts, or of a layer normalisation behind a global pooling.
    """
    import keras
    import torch

    model.eval()
    takes = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model(_example(takes, 1))  # never called, it is refused
        try:
            model.export(target, format="onnx", verbose=False)
        except Exception as error:
            try:
                _write_program(model, takes, target)
            except Exception as second:
                raise second from error


def _example(takes: Any, count: int) -> Any:
    import keras
    import torch
    from torch.utils import _pytree

    def one(tensor: "keras.KerasTensor") -> torch.Tensor:
        kind = getattr(torch, keras.backend.standardize_dtype(tensor.dtype))
        # An extent that is free has to be something for the run: large enough for any pooling.
        return torch.zeros([count, *(n or 64 for n in tensor.shape[1:])], dtype=kind)

    return _pytree.tree_map(one, takes)


def _write_program(model: Any, takes: Any, target: str | Path) -> None:
    """Export the program that PyTorch captures; the batch is free."""
    import torch
    from torch.utils import _pytree

    class Positional(torch.nn.Module):
        """Its forward method names no argument: a Keras model's takes whatever it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: torch.Tensor) -> Any:
            return self.model(_pytree.tree_unflatten(tensors, structure), training=False)

    # Of two items: a batch of one would be taken for fixed.
    flat, structure = _pytree.tree_flatten(_example(takes, 2))
    free = {0: torch.export.Dim("batch")}
    program = torch.onnx.export(
        Positional().eval(), tuple(flat), dynamo=True, verbose=False,
        input_names=[tensor.name for tensor in _pytree.tree_leaves(takes)],
        dynamic_shapes=(tuple(free for _ in flat),),
    )  # fmt: skip
    if program is None:
        raise RuntimeError("PyTorch's exporter gave no program")
    program.save(target)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(f"gradcam_multi: {type(error).__name__}: {' '.join(str(error).split())[:250]}")
