"""What stands between a network and its gradient, by (network, exporter), each with its reason."""

EXPORTER_FAILS: dict[tuple[str, str], str] = {
    ("keras_vit", "tf2onnx"): "tf2onnx writes an operator Erfc that no runtime knows",
    ("EfficientNetB0", "tf2onnx"): "tf2onnx turns the statistics of Normalization into inputs",
    ("keras_vit", "Keras on torch"): "torch's old exporter refuses a layer normalisation's shape",
}
"""No file, or one that ONNX Runtime refuses; the exporter's affair."""

REFUSED: dict[tuple[str, str], str] = {}
"""What our error says of models that cannot be differentiated; a frozen list."""

OTHER_SEED: dict[tuple[str, str], tuple[int, str]] = {}
"""Weights and inputs drawn from another seed, and why."""
