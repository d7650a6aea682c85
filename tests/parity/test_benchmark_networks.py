"""The networks of the benchmarks are the published ones, and the same in both frameworks."""

import numpy as np
import onnxruntime
import pytest
import torch
from networks import inputs
from networks_keras import keras_network
from networks_torch import onnx_network, torch_network

# As published by their authors and by torchvision; between them they use every operation.
PARAMETERS = {
    "DenseNet-121": 7_978_856, "EfficientNet-B0": 5_288_548, "ViT-S": 22_050_664,
    "ResNet-18": 11_689_512, "SqueezeNet": 1_235_496,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_twins(name):
    module, model = torch_network(name), keras_network(name)
    assert sum(p.numel() for p in module.parameters()) == PARAMETERS[name]
    x = inputs(1)
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
    found = model(np.moveaxis(x, 1, -1), training=False).numpy()
    # float32 through a hundred layers; measured 4.5e-6 at logits of about 1, and 7.6e-5 at
    # ResNet-18's, which are up to 115.
    np.testing.assert_allclose(found, expected, atol=5e-4 if name == "ResNet-18" else 5e-5)


@pytest.mark.parametrize("name", ["ViT-S", "SqueezeNet"])
def test_the_batch_of_an_onnx_file_is_free(name):
    module, x = torch_network(name), inputs(3)
    session = onnxruntime.InferenceSession(onnx_network(module))
    with torch.inference_mode():
        expected = module(torch.from_numpy(x)).numpy()
    # float32 through twelve blocks, in two runtimes; logits of about 1.
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=5e-5)
