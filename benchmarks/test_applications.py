"""Grad-CAM of Keras' own networks at full size, batch 8, under each backend of Keras.

KERAS_BACKEND chooses the backend; under PyTorch the network's ONNX export is measured too. No time
is asserted: read the table.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import Opened
from inference import function_call, session_call

keras = pytest.importorskip("keras", reason="needs Keras")
pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # random weights

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
        return function_call(model)
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


def test_keras(network, turns, record_turns):
    name, model, x = network
    opened = Opened(model, inference(model))
    times = turns(opened.ours(x), {"plain": lambda: opened.plain(x)})
    framework = f"keras {keras.backend.backend()}"
    record_turns("applications", times, model=name, framework=framework, batch=BATCH)


def test_onnx_export(network, turns, record_turns, tmp_path: Path):
    if keras.backend.backend() != "torch":
        pytest.skip("Keras exports ONNX under its torch backend")
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime")
    from gradcam_multi_tensorflow.under_torch import write

    name, model, x = network
    path = str(tmp_path / "model.onnx")
    write(model, path)
    opened = Opened(path, session_call(path))
    times = turns(opened.ours(x), {"plain": lambda: opened.plain(x)})
    record_turns("applications", times, model=name, framework="onnx", batch=BATCH)
