"""Whole networks exported by PyTorch: gradients to an early layer and the picture, and autograd."""

import io
import warnings
from typing import Any

import numpy as np
import pytest
from gradcam_multi_onnx.plugin import gradcam_multi_open

torch = pytest.importorskip("torch", reason="PyTorch, whose exports are the test, is not installed")
NAMES = ("small_resnet", "Vgg", "MobileNet", "DenseNet", "SqueezeNet", "Inception")


def exported(name: str, *, folded: bool) -> tuple[Any, bytes]:
    import architectures_torch

    module = architectures_torch.seeded(getattr(architectures_torch, name))
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without onnxscript is called deprecated
        torch.onnx.export(
            module, (torch.zeros(2, 3, 64, 64),), file, dynamo=False, opset_version=17,
            training=mode, do_constant_folding=folded, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        )  # fmt: skip
    return module, file.getvalue()


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_to_the_picture_equal_autograd(name: str, folded: bool) -> None:
    module, data = exported(name, folded=folded)
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = module(x)
    c = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    (expected,) = torch.autograd.grad(y, x, c)
    one = gradcam_multi_open(data)
    kinds = {layer.kind for layer in one.layers()}
    assert ("BatchNormalization" in kinds) <= (not folded or name in ("DenseNet",))
    with one.trace(x.detach().numpy(), ["x"]) as trace:
        (gradient,) = trace.vjp({"y": c.numpy()})
    scale = float(expected.abs().max())
    # Tens of layers in float32, summed in another order; 1e-6 was measured.
    np.testing.assert_allclose(gradient, expected.numpy(), rtol=0, atol=1e-5 * scale)
