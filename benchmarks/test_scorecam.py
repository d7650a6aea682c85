"""Methods that run the model once a channel, beside as many plain inferences in equal batches.

SqueezeNet at 224x224, whose final map has 512 channels. Ablation-CAM replays from the layer on, and
stands beside plain inference all the same. Memory is in test_memory.py.
"""

import numpy as np
import pytest
from adapters import FRAMEWORKS, opened
from networks import inputs

from gradcam_multi.probing import items_at_once

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # random weights

CHANNELS = 512


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_512_channels(framework, method, turns, record_turns):
    network = opened(framework, "SqueezeNet")
    x = network.layout(inputs(1))
    batch = items_at_once(x)
    many = np.repeat(x, batch, 0)
    explain = network.explained(x, method)
    assert explain().cost >= CHANNELS

    def plain() -> None:
        for _ in range(CHANNELS // batch):
            network.plain(many)

    times = turns(lambda: explain().heatmap, {"plain": plain})
    about = {"model": "SqueezeNet", "framework": framework, "batch": 1, "method": method}
    record_turns("replays", times, **about, size=f"{CHANNELS} inferences")
