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
    "side": (112, 224, 448, 896),
    "channels": (64, 128, 256, 512, 1024, 2048),
    "classes": (10, 100, 1000, 5000, 21000),
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
