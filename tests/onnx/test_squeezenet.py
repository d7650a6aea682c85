"""A real network: SqueezeNet 1.1, opset 7, fixed to a batch of one, in float32 and float16."""

from pathlib import Path

import numpy as np
import pytest
from exports_onnx import METHODS_EXPORTED, session_of
from gradcam_multi_onnx.plugin import gradcam_multi_open

import gradcam_multi as gm

MODELS = Path(__file__).parents[3] / "shared" / "data" / "models"
LAYER = "fire9/concat_1"
pytestmark = pytest.mark.skipif(
    not MODELS.is_dir(), reason="../shared/data with the real network is not beside this checkout"
)


def pictures() -> np.ndarray:
    """Coarse and fine noise of the range that the network was trained on."""
    random = np.random.default_rng(0)
    coarse = random.normal(size=(2, 3, 14, 14)).repeat(16, 2).repeat(16, 3)
    return (50 * coarse + 10 * random.normal(size=coarse.shape)).astype(np.float32)


def cotangent() -> np.ndarray:
    c = np.zeros((2, 1000, 1, 1), np.float32)
    c[0, 151], c[1, 281] = 1, 1
    return c


def test_what_it_takes_and_returns() -> None:
    one = gradcam_multi_open(MODELS / "squeezenet1_1.onnx")
    (taken,), (returned,) = one.inputs, one.outputs
    assert (taken.name, taken.shape, taken.dtype) == ("data_0", (1, 3, 224, 224), "float32")
    assert taken.layout == "channels_first"
    assert (returned.name, returned.activation) == ("softmaxout_1", "softmax")
    assert len(one.layers()) == 66


def test_gradients_equal_those_of_the_torch_weights() -> None:
    """At the final feature map, and at the picture: max poolings that overlap lie between."""
    torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    from architectures_torch import squeezenet

    reference = squeezenet(MODELS / "squeezenet1_1.pth")
    x, c = torch.from_numpy(pictures()).requires_grad_(), torch.from_numpy(cotangent()[:, :, 0, 0])
    a = reference.features(x)
    logits = torch.flatten(reference.classifier(a), 1)
    at_map, at_picture = torch.autograd.grad(logits, (a, x), c)
    one = gradcam_multi_open(MODELS / "squeezenet1_1.onnx")
    with one.trace(pictures(), [LAYER, "data_0"]) as trace:
        gradients = trace.vjp({"softmaxout_1": cotangent()})
        # 26 convolutions in float32, summed in another order.
        for found, wanted in (
            (trace.logits["softmaxout_1"][:, :, 0, 0], logits),
            (trace.activations[0], a),
            (gradients[0], at_map),
        ):
            values = wanted.detach().numpy()
            np.testing.assert_allclose(found, values, rtol=0, atol=2e-5 * np.abs(values).max())
        # Down to the picture, some masks of ReLUs and maxima within rounding of a tie differ, and
        # with each the entries that it feeds: few, so the norm tells. Measured: 9e-4, and 3e-7
        # against autograd in float64, so that here it is the float32 reference that is off.
        off = np.linalg.norm(gradients[1] - at_picture.numpy()) / np.linalg.norm(at_picture)
        assert off < 1e-2


def test_float16_gradients_neither_underflow_nor_lose_precision() -> None:
    """The gradient is computed in float32; only the ReLU's mask comes from the float16 run."""
    found = []
    for name in ("squeezenet1_1.onnx", "squeezenet1_1_fp16.onnx"):
        with gradcam_multi_open(MODELS / name).trace(pictures(), [LAYER]) as trace:
            # A cotangent that float16 would flush to zero.
            found.append(trace.vjp({"softmaxout_1": 1e-9 * cotangent()})[0] * 1e9)
    full, half = found
    weights_full, weights_half = full.mean((2, 3)), half.mean((2, 3))
    # Cells where the float16 run closes another ReLU change single entries, their means little.
    scale = np.abs(weights_full).max()
    np.testing.assert_allclose(weights_half, weights_full, rtol=0, atol=2e-2 * scale)


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")
@pytest.mark.parametrize("method", METHODS_EXPORTED)
@pytest.mark.parametrize("name", ["squeezenet1_1.onnx", "squeezenet1_1_fp16.onnx"])
def test_exported_maps_of_photographs(tmp_path: Path, name: str, method: str) -> None:
    """Of the top class, and of one whose evidence may be a few cells at the edge of a ReLU."""
    explainer = gm.Explainer(MODELS / name, method=method)
    path = gm.export(MODELS / name, tmp_path / "h.onnx", method=method, preprocess="caffe")
    session, prepare = session_of(path), gm.Preprocess.named("caffe")
    photos = sorted((MODELS.parent / "photos").iterdir())
    inputs = np.stack([prepare.apply(gm.load_image(photo))[0] for photo in photos])
    assert len(photos) == 14
    dtype = np.float16 if "16" in name else np.float32
    top = explainer(inputs)
    others = [(index + 7) % 1000 for index in top.classes]
    for wanted in (top, explainer(inputs, others)):
        for one, index, heatmap in zip(inputs, wanted.classes, wanted.heatmap, strict=True):
            feeds = {"data_0": one[None].astype(dtype), "class_index": np.array([index])}
            (found,) = session.run(["heatmap"], feeds)
            # The same kernels twice, 2e-6 measured in both precisions; 26 convolutions in float32,
            # summed in another order where the runtime fuses the file differently, are 1e-4.
            np.testing.assert_allclose(found[0], heatmap, rtol=0, atol=1e-4)
