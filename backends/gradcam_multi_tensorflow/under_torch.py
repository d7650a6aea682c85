"""A program: reads a Keras file and writes it as ONNX; run with KERAS_BACKEND=torch."""

import sys
import warnings


def main(stored: str, target: str, trust: str) -> None:
    """Load, run once (Keras asks for that before an export), export."""
    import keras
    import torch
    from torch.utils import _pytree

    warnings.simplefilter("ignore")
    model = keras.saving.load_model(stored, compile=False, safe_mode=trust == "safe")

    def one(tensor: "keras.KerasTensor") -> torch.Tensor:
        kind = getattr(torch, keras.backend.standardize_dtype(tensor.dtype))
        # An extent that is free has to be something for the run: large enough for any pooling.
        return torch.zeros([1, *(n or 64 for n in tensor.shape[1:])], dtype=kind)

    model.eval()
    takes = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    with torch.no_grad():
        example = _pytree.tree_map(one, takes)
        model(example)
    model.export(target, format="onnx", verbose=False)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        sys.exit(f"gradcam_multi: {type(error).__name__}: {' '.join(str(error).split())[:250]}")
