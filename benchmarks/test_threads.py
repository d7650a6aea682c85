"""Two threads that share one explainer, beside one thread that does the same work."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from adapters import FRAMEWORKS, opened
from networks import inputs

pytestmark = pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # random weights

CALLS = 8


@pytest.mark.parametrize("name", ["ResNet-50", "MobileNetV2"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_two_threads(framework, name, turns, record_turns):
    """A ratio below 1 is a gain; plain inference by two threads is there to compare with."""
    network = opened(framework, name)
    x = network.layout(inputs(1))
    ours = network.ours(x)

    def by(pool, call) -> None:
        for done in [pool.submit(call) for _ in range(CALLS)]:
            done.result()

    # Threads that stay: frameworks make threads of their own for each that calls them first.
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        others = {
            "one thread": lambda: by(one, ours),
            "plain, one thread": lambda: by(one, lambda: network.plain(x)),
            "plain, two threads": lambda: by(two, lambda: network.plain(x)),
        }
        times = turns(lambda: by(two, ours), others)
    about = {"model": name, "framework": framework, "batch": 1, "size": f"{CALLS} calls"}
    explained = {"ours": times["ours"], "one thread": times["one thread"]}
    record_turns("threads", explained, plain="one thread", method="gradcam", **about)
    plain = {"plain": times["plain, two threads"], "one": times["plain, one thread"]}
    record_turns("threads", plain, plain="one", method="inference", **about)
