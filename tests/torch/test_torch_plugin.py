"""What is claimed, what is refused and how, and the demo networks."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from architectures_torch import seeded, small_resnet
from gradcam_multi_torch import plugin
from gradcam_multi_torch.plugin import gradcam_multi_build, gradcam_multi_open
from torch import nn

from gradcam_multi.errors import MissingExtraError, ModelFileError, UnsupportedError
from gradcam_multi.spec import Model


def images(count=1, side=64):
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


def test_the_plugin_imports_no_framework():
    code = "import gradcam_multi_torch.plugin, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_explanation_imports_no_symbolic_mathematics():
    """PyTorch imports SymPy to look at cotangents: half a second and 50 MB."""
    code = """
import sys, numpy as np, torch
import gradcam_multi as gm
layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(784, 3)
before = "sympy" in sys.modules
found = gm.explain(torch.nn.Sequential(*layers), np.random.rand(2, 3, 16, 16), 0)
print(found.layer, before, "sympy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    layer, before, after = done.stdout.split()
    assert layer == "1"
    assert before == after


def test_claims_modules_only():
    assert isinstance(gradcam_multi_open(model=small_resnet()), Model)
    for other in (torch.zeros(2), {"weight": torch.zeros(2)}, "model.onnx", b"", 3, nn.Module):
        assert gradcam_multi_open(model=other) is None


def test_a_keras_model_on_the_torch_backend_is_left_to_keras():
    layer = type("Layer", (nn.Module,), {"__module__": "keras.src.layers.layer"})
    assert gradcam_multi_open(model=type("Mine", (layer,), {})()) is None


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_file_of_weights_is_no_model(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"weights")
    for given in (path, str(path)):
        with pytest.raises(ModelFileError, match="a file of weights is no model; build the"):
            gradcam_multi_open(model=given)
    with pytest.raises(ModelFileError, match="no such file"):
        gradcam_multi_open(model=str(tmp_path / f"other{suffix}"))


def test_without_torch(monkeypatch):
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "gradcam-multi\[torch\]"'):
        gradcam_multi_open(model=small_resnet())
    with pytest.raises(MissingExtraError, match=r"'w\.pth': PyTorch is not installed"):
        gradcam_multi_open(model="w.pth")


def test_a_folder_called_torch_is_not_torch(monkeypatch):
    monkeypatch.setattr(plugin, "find_spec", lambda name: SimpleNamespace(origin=None))
    with pytest.raises(MissingExtraError):
        gradcam_multi_open(model="w.pth")


def reference(module):
    with gradcam_multi_open(model=module).trace(images(), ["layer2"]) as trace:
        return trace.vjp({"output": np.eye(10, dtype=np.float32)[[3]]})[0]


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda module: torch.compile(module, backend="eager"),
        lambda module: torch.compile(nn.DataParallel(module), backend="eager"),
    ],
)
def test_wrappers_are_unwrapped(wrap):
    module = small_resnet()
    model = gradcam_multi_open(model=wrap(module))
    assert model.module is module
    np.testing.assert_array_equal(reference(wrap(module)), reference(module))


def test_a_module_compiled_in_place():
    module = small_resnet()
    expected = reference(module)
    module.compile(backend="eager")
    np.testing.assert_array_equal(reference(module), expected)


TRACING = pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")


def test_weights_without_values_are_refused():
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(UnsupportedError, match=r"7 of the 7 weights .* meta device .*'0\.weight'"):
        gradcam_multi_open(model=module)


class Scripted(nn.Module):
    """A part that Python cannot look into."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.part = torch.jit.trace(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), _example())
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc(self.part(self.conv(x)).mean((2, 3)))


def _example():
    return torch.zeros(1, 4, 62, 62)


@TRACING
def test_a_scripted_part_of_a_module():
    model = gradcam_multi_open(model=seeded(Scripted))
    listed = {layer.name: layer for layer in model.layers(images())}
    assert listed["part"].shape == (None, 4, 60, 60)
    with model.trace(images(), ["conv", "part"]) as trace:
        conv, part = trace.vjp({"output": np.eye(10, dtype=np.float32)[[3]]})
    weights = model.module.fc.weight[3].detach().numpy() / 3600
    np.testing.assert_allclose(part[0, :, 0, 0], weights, rtol=1e-5)  # float32 rounding
    assert conv.any()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)

    def forward(self, x):
        return Doubled.apply(self.conv(x)).mean((2, 3))


def test_a_function_with_its_own_gradient():
    model = gradcam_multi_open(model=seeded(Custom))
    assert [layer.name for layer in model.layers(images())] == ["conv", "mul", "mean"]
    with model.trace(images(side=8), ["conv"]) as trace:
        gradient = trace.vjp({"output": np.eye(10, dtype=np.float32)[[3]]})[0]
    np.testing.assert_allclose(gradient[0, 3], 2 / 36, rtol=1e-6)  # float32 rounding


@pytest.mark.parametrize("name", ["sound", "shortcut"])
def test_the_demo_networks(name):
    networks = pytest.importorskip("gradcam_multi.demo.networks")
    network = networks.load_network(name)
    module = gradcam_multi_build(network=network)
    inputs = np.random.default_rng(0).uniform(size=(2, 3, *network.input_size)).astype(np.float32)
    model = gradcam_multi_open(model=module)
    assert [layer.name for layer in model.layers(inputs)] == [each.name for each in network.layers]
    layer = network.layers[-3].name
    with model.trace(inputs, [layer]) as trace:
        features, logits = trace.activations[0], trace.logits["output"]
    weight, bias = (
        network.weights[f"{network.layers[-1].name}.{part}"] for part in ("weight", "bias")
    )
    # The mean and the dense layer, in NumPy: float32 rounding over some hundred terms.
    np.testing.assert_allclose(
        logits, features.mean((2, 3)) @ weight.T + bias, rtol=1e-4, atol=1e-4
    )
