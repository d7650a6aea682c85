"""LeGrad on the network of tokens that examples/train_tokens.py trained on the demo's scenes."""

import numpy as np
import pytest
from stored_evidence import check_evidence

import gradcam_multi as gm
from gradcam_multi import metrics
from gradcam_multi.cam.evidence import evidence
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes

token_network = pytest.importorskip("token_network", reason="examples/ is absent")


@pytest.fixture(scope="module")
def network():
    return token_network.load_token_network()


@pytest.fixture(scope="module")
def scenes():
    return draw_scenes(40, seed=VALIDATION_SEED, marks="random")


@pytest.mark.parametrize(
    "name", [n for n, found in evidence().items() if found.network == "tokens"]
)
def test_stored_figures_are_found_again(network, scenes, name):
    layers = metrics.weighted_layers(network, as_inputs(scenes[:1]))
    check_evidence(name, network, metrics.shuffled(network, layers))


def test_the_largest_value_lies_on_the_object(network, scenes):
    found = gm.explain(network, as_inputs(scenes), method="legrad")
    hits = sum(
        scene.mask[np.unravel_index(heatmap.argmax(), heatmap.shape)]
        for scene, heatmap in zip(scenes, found.heatmap, strict=True)
    )
    # A point drawn by lot hits an object as often as its share of the area says. Five deviations
    # above that many is more than one in a million draws would reach.
    chances = np.array([scene.mask.mean() for scene in scenes])
    assert hits > chances.sum() + 5 * np.sqrt((chances * (1 - chances)).sum())


def test_the_network_names_the_scenes(network, scenes):
    found = gm.explain(network, as_inputs(scenes))
    right = np.mean(np.array(found.classes) == [scene.label for scene in scenes])
    # 0.98 of 800, less three standard errors of a share of 40.
    assert right > 0.98 - 3 * np.sqrt(0.98 * 0.02 / 40)
