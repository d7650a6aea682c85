"""Grad-CAM of the published networks on a GPU, PyTorch and ONNX Runtime, synchronised."""

from importlib.util import find_spec
from typing import Any

import pytest
from adapters import Opened, need, opened
from inference import session_call
from networks import NETWORKS, inputs

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # random weights

BATCHES = (1, 8, 32)


def on_gpu(framework: str, name: str) -> Opened:
    """Return a network that computes on the GPU; skips where there is none."""
    need(framework)
    if framework == "torch":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU that PyTorch sees")
        module = opened("torch", name).model.cuda()

        def plain(x: Any) -> Any:
            with torch.inference_mode():
                return module(torch.from_numpy(x).cuda()).cpu().numpy()

        return Opened(module, plain)
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs ONNX Runtime's CUDA provider")
    data = opened("onnx", name).model
    providers = ["CUDAExecutionProvider"]
    session = onnxruntime.InferenceSession(data, providers=providers)
    if session.get_providers()[0] != providers[0]:
        pytest.skip("ONNX Runtime found no GPU, or not the CUDA libraries that it needs")
    return Opened(session, session_call(data, providers[0]))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("framework", ["torch", "onnx"])
def test_gpu(framework, name, batch, turns, record_turns):
    """Both ends are NumPy arrays, so that every call has waited for the GPU."""
    if find_spec("torch") is None:
        pytest.skip("needs PyTorch, which holds the networks")
    network, x = on_gpu(framework, name), inputs(batch)
    times = turns(network.ours(x), {"plain": lambda: network.plain(x)})
    about = {"model": name, "framework": framework, "batch": batch, "device": "gpu"}
    record_turns("gradcam", times, method="gradcam", **about)
