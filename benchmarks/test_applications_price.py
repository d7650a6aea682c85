"""The price of Grad-CAM on Keras' own networks at full size, batch 8, under each backend of Keras.

Plain inference and explanations take turns; compared are medians. KERAS_BACKEND chooses the
backend; under PyTorch the network's ONNX export is measured too. No time is asserted: read the
table.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_onnx_price import interleaved, record

keras = pytest.importorskip("keras", reason="needs Keras")

NETWORKS = (
    "ResNet50", "VGG16", "MobileNetV2", "DenseNet121",
    "EfficientNetB0", "InceptionV3", "Xception", "ConvNeXtTiny",
)  # fmt: skip
BATCH = 8


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    keras.backend.clear_session()
    model = getattr(keras.applications, request.param)(weights=None, classes=1000)
    _, *shape = model.input_shape
    return request.param, model, np.random.default_rng(0).random((BATCH, *shape), np.float32)


def inference(model: Any) -> Callable[[np.ndarray], Any]:
    """Return plain inference as the backend's own users write it."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda x: model(x, training=False), autograph=False)
        return lambda x: function(tf.convert_to_tensor(x)).numpy()
    if backend == "torch":
        import torch

        model.eval()

        def plain(x: np.ndarray) -> Any:
            with torch.inference_mode():
                return model(torch.from_numpy(x), training=False).numpy()

        return plain
    import jax

    trainable, fixed = (
        [v.value for v in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    compiled = jax.jit(lambda x: model.stateless_call(trainable, fixed, x, training=False)[0])
    return lambda x: np.asarray(compiled(x))


def priced(plain: Callable[[np.ndarray], Any], model: Any, x: np.ndarray) -> np.ndarray:
    from gradcam_multi import Explainer

    explainer = Explainer(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights may leave a map without evidence
        for _ in range(2):
            plain(x)
            explainer(x)
        return interleaved(lambda: plain(x), lambda: explainer(x))


def test_keras(network, record_property):
    name, model, x = network
    times = priced(inference(model), model, x)
    record(record_property, name, f"keras {keras.backend.backend()}", BATCH, times)


def test_onnx_export(network, record_property, tmp_path: Path):
    if keras.backend.backend() != "torch":
        pytest.skip("Keras exports ONNX under its torch backend")
    from gradcam_multi_tensorflow.under_torch import write

    onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime")
    name, model, x = network
    path = str(tmp_path / "model.onnx")
    write(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    times = priced(lambda x: session.run(None, {feed: x}), path, x)
    record(record_property, name, "onnx", BATCH, times)
