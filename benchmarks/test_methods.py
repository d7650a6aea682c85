"""Every method beside plain inference, and beside each peer that has it.

ResNet-50, batch 8; but for methods that run the model again for each channel, cell or mask: these
on a light network of 64 channels, batch 1, since ResNet-50 has 2048 of them.
"""

import pytest
from adapters import FRAMEWORKS, open_program, opened
from networks import NETWORKS, growing, inputs
from peers import SAMPLES, peers_of

from gradcam_multi import METHODS

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # random weights

MANY_RUNS = (
    "scorecam", "scorecam-softmax", "ss-cam", "is-cam", "ablationcam", "recipro-cam", "rise",
)  # fmt: skip
FEW_RUNS = tuple(
    name for name, m in METHODS.items() if name not in MANY_RUNS and "attention" not in m.needs
)  # ResNet-50 has no attention
LIGHT_SIDE = 112


@pytest.mark.parametrize("method", FEW_RUNS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_run(framework, method, turns, record_turns):
    network, x = opened(framework, "ResNet-50"), inputs(8)
    compare(network, framework, method, network.layout(x), "ResNet-50", turns, record_turns)


@pytest.mark.parametrize("method", MANY_RUNS)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_many_runs(framework, method, turns, record_turns):
    network, x = open_program(framework, growing(), LIGHT_SIDE), inputs(1, LIGHT_SIDE)
    compare(network, framework, method, network.layout(x), "light", turns, record_turns)


def compare(network, framework, method, x, name, turns, record_turns) -> None:
    layer = NETWORKS[name].layer if name in NETWORKS else "last_relu"
    others = {"plain": lambda: network.plain(x)}
    others |= peers_of(framework, method, network.model, layer, x)
    times = turns(network.ours(x, method, samples=SAMPLES.get(method)), others)
    record_turns("methods", times, model=name, framework=framework, batch=len(x), method=method)
