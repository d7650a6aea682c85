"""What a method that runs the model again costs: passes, the size of a batch, what is alive."""

import tracemalloc
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from gradcam_multi.cam import METHODS
from gradcam_multi.probing import ModelProbe, Settings
from gradcam_multi.scoring import Score
from gradcam_multi.sizes import items_at_once
from gradcam_multi.spec import TensorSpec
from gradcam_multi.targets import ClassScore, Probability, score_batch

CHANNELS, SIDE, ITEMS, BATCH = 64, 64, 2, 6
IMAGE_BYTES = 3 * SIDE * SIDE * 4
TARGETS = (ClassScore(0), ClassScore(2))
SAMPLES = 3
TRIES = {
    "scorecam": CHANNELS, "scorecam-softmax": CHANNELS, "is-cam": SAMPLES * CHANNELS,
    "ss-cam": SAMPLES * CHANNELS, "rise": 200, "ablationcam": CHANNELS + 1, "recipro-cam": 16 * 16,
}  # fmt: skip


class LightModel:
    """Scores that cost no memory: means of the image's, or of the layer's, channels."""

    inputs = (TensorSpec("image", (None, 3, SIDE, SIDE), "float32", "channels_first"),)

    def __init__(self):
        self.activations = np.random.default_rng(1).random((ITEMS, CHANNELS, 16, 16), np.float32)
        self.sizes, self.replayed, self.kept = [], [], []

    @contextmanager
    def trace(self, inputs, layers):
        self.sizes.append(len(inputs))
        self.kept += layers

        def replay(layer, activation):
            self.replayed.append(len(activation))
            return {"y": activation.mean((2, 3))[:, :3]}

        yield SimpleNamespace(
            logits={"y": inputs.mean((2, 3))}, activations=(self.activations,), replay=replay
        )


def probe_of(model, batch_size, samples):
    inputs = np.random.default_rng(0).random((ITEMS, 3, SIDE, SIDE), np.float32)
    with model.trace(inputs, []) as trace:
        scored = SimpleNamespace(targets=TARGETS)
        score = Score(scored, "y", partial(score_batch, output="y"))
        settings = Settings(0, samples, batch_size)
        return ModelProbe(
            model, inputs, trace, "layer", score, partial(model.trace, layers=["layer"]), settings
        )


@pytest.mark.parametrize("name", TRIES)
def test_passes_and_no_more_than_one_batch_alive(name):
    model = LightModel()
    probe = probe_of(model, BATCH, 200 if name == "rise" else SAMPLES)
    start = len(model.sizes)
    activations = probe.activations.nbytes
    tracemalloc.start()
    METHODS[name].probe(probe)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    replays = METHODS[name].needs == ("replays",)
    whole = model.sizes[start:]
    variants = BATCH // ITEMS
    if replays:  # copies of the items to begin with, and groups of them, the last filled up
        assert whole == [BATCH]
        assert set(model.replayed) == {BATCH}
        assert len(model.replayed) == -(-TRIES[name] // variants)
        batch = variants * activations
    else:
        assert sum(whole) == ITEMS * TRIES[name]
        assert max(whole) == BATCH
        assert not model.kept  # of a run that is scored only, no layer is kept
        batch = variants * ITEMS * IMAGE_BYTES
    assert probe.passes == 1 + (sum(whole) + sum(model.replayed)) // ITEMS
    # One batch of what is tried; beside it the arrays of one mask and, of rise, the map in float64
    # and the sums of its grids. All at once would be 20 batches and more.
    assert batch < peak < 3 * batch
    assert TRIES[name] // variants > 20


def test_a_model_of_fixed_batches_gets_full_ones():
    model = LightModel()
    model.inputs = (TensorSpec("image", (8, 3, SIDE, SIDE), "float32", "channels_first"),)
    METHODS["scorecam"].probe(probe_of(model, None, None))
    assert model.sizes[1:] == [8] * (ITEMS * CHANNELS // 8)


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
@pytest.mark.parametrize("probability", [False, True])
def test_classes_are_scored_at_once_as_one_by_one(activation, probability):
    logits = {"y": np.random.default_rng(0).normal(0, 3, (6, 5)).astype(np.float32)}
    specs = (TensorSpec("y", (None, 5), "float32", activation=activation),)
    one_by_one = partial(score_batch, output="y", specs=specs)
    targets = (ClassScore(4), ClassScore(1))
    score = Score(SimpleNamespace(targets=targets), "y", one_by_one, activation)
    found = score.of(logits, probability=probability)
    same = [Probability(t.index) if probability else t for t in targets] * 3
    expected = one_by_one(same, logits, resolve=False).scores.reshape(3, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-14)  # the same float64 operations


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((2, 3, 224, 224), 4), ((1, 3, 112, 112), 16), ((5, 16), 32), ((1, 3, 448, 448), 1),
     ((1, 3, 4000, 4000), 1), ((1, 1, 224, 224), 12)],
)  # fmt: skip
def test_large_inputs_are_run_few_at_a_time(shape, expected):
    image = np.zeros(shape, np.float32)
    assert items_at_once(image) == expected
    assert items_at_once((image[:, :1], image)) == expected
    assert items_at_once({"small": np.zeros((len(image), 1)), "image": image}) == expected


def test_more_are_run_at_once_on_an_accelerator():
    model, images = SimpleNamespace(accelerated=True), np.zeros((1, 3, 448, 448), np.float32)
    assert items_at_once(images, model) == 8
    assert items_at_once(images[..., :112, :112], model) == 32
