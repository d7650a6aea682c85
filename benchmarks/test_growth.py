"""How the price grows with the batch, the side of the picture, the channels and the classes.

The network is light, so that what grows is not hidden behind it. `size` counts what grows: items,
pixels, channels, classes. The report fits seconds = fixed + slope * size ^ exponent.
"""

import pytest
from adapters import FRAMEWORKS, open_program
from networks import growing, inputs

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # random weights

SIZES = {
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
    "side": (112, 160, 224, 320, 448, 640, 896),
    "channels": (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048),
    "classes": (10, 100, 300, 1000, 2000, 5000, 10000, 21000),
}


@pytest.mark.parametrize(("axis", "size"), [(a, s) for a, sizes in SIZES.items() for s in sizes])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_growth(framework, axis, size, turns, record_turns):
    settings = {axis: size} if axis in ("channels", "classes") else {}
    side = size if axis == "side" else 224
    network = open_program(framework, growing(**settings), side)
    x = network.layout(inputs(size if axis == "batch" else 1, side))
    times = turns(network.ours(x), {"plain": lambda: network.plain(x)})
    grown = size**2 if axis == "side" else size
    record_turns("growth", times, model="light", framework=framework, method=axis, size=grown)
