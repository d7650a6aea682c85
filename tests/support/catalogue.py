"""Every (network, exporter) that the table of coverage has, in its order."""

import exports_keras
import exports_torch
import light_zoo

TORCH_NEW, TORCH_OLD = "torch, new", "torch, old"
TF2ONNX, KERAS = "tf2onnx", "Keras on torch"
ZOO = "as published"

BY_TF2ONNX = tuple(exports_keras.NETWORKS)
BY_KERAS = (
    "keras_resnet", "keras_vgg", "keras_mobilenet", "keras_densenet", "keras_squeezenet",
    "keras_conv1d", "keras_vit", "MobileNetV3Small", "EfficientNetB0",
)  # fmt: skip

TORCH_CASES = [
    (name, exporter) for name in exports_torch.NETWORKS for exporter in (TORCH_NEW, TORCH_OLD)
]
KERAS_CASES = [(name, TF2ONNX) for name in BY_TF2ONNX] + [(name, KERAS) for name in BY_KERAS]
ZOO_CASES = [(f"light {name}", ZOO) for name in light_zoo.MODELS]
CASES = [*TORCH_CASES, *KERAS_CASES, *ZOO_CASES]
