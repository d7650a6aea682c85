"""Plain inference and Grad-CAM of one model in one framework, ready to be timed in turn."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradcam_multi import Explainer

INPUTS = np.random.default_rng(0).normal(size=(32, 3, 224, 224)).astype(np.float32)


@dataclass(frozen=True)
class Pair:
    """Two calls on the same model, to be given a batch in the model's layout."""

    plain: Callable[[np.ndarray], Any]
    explain: Callable[[np.ndarray], Any]
    layout: Callable[[np.ndarray], np.ndarray] = lambda inputs: inputs


def torch_pair() -> Pair:
    import torch
    from architectures_torch import resnet50

    module = resnet50().eval()

    def plain(inputs: np.ndarray) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(inputs)).numpy()

    return Pair(plain, Explainer(module))


def onnx_pair() -> Pair:
    import onnx
    import onnxruntime
    import torch
    from architectures_torch import resnet50

    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            resnet50().eval(), (torch.from_numpy(INPUTS[:2]),), dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    onnx.save(program.model_proto, stream)
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Pair(lambda x: session.run(None, {name: x}), Explainer(stream.getvalue()))


def tensorflow_pair() -> Pair:
    import keras
    import tensorflow as tf

    model = keras.applications.ResNet50(weights=None)
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    return Pair(
        lambda x: function(tf.convert_to_tensor(x)).numpy(),
        Explainer(model),
        lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)),
    )


PAIRS = {"onnx": onnx_pair, "torch": torch_pair, "tensorflow": tensorflow_pair}
