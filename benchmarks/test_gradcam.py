"""Grad-CAM of published networks at 224x224 beside plain inference, and beside peers' Grad-CAM.

Everything takes turns in one process, on the same weights and pictures. No time is asserted: read
the table.
"""

import pytest
from adapters import FRAMEWORKS, opened
from measuring import compared
from networks import NETWORKS, inputs
from peers import peers_of

pytestmark = pytest.mark.filterwarnings(
    "ignore::gradcam_multi.CamWarning"
)  # random weights may leave a map without evidence

BATCHES = (1, 8, 32)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_time(framework, name, batch, turns, record_turns):
    """Ours and every peer that is installed for this framework."""
    network = opened(framework, name)
    x = network.layout(inputs(batch))
    others = {"plain": lambda: network.plain(x)}
    others |= peers_of(framework, "gradcam", network.model, NETWORKS[name].layer, x)
    times = turns(network.ours(x), others)
    record_turns("gradcam", times, model=name, framework=framework, batch=batch, method="gradcam")


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_against_torch_peers(name, batch, turns, record):
    """The ONNX adapter beside the PyTorch peers on the same weights."""
    torch, onnx = opened("torch", name), opened("onnx", name)
    x = inputs(batch)
    peers = peers_of("torch", "gradcam", torch.model, NETWORKS[name].layer, x)
    if not peers:
        pytest.skip("needs grad-cam, torchcam or captum: tox -e bench-peers")
    times = turns(onnx.ours(x), peers)
    for who, values in times.items():
        if who != "ours":
            record(
                "onnx-peers", compared(times["ours"], values), model=name, framework="onnx",
                batch=batch, who=who, method="gradcam",
            )  # fmt: skip
