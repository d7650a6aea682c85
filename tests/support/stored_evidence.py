"""The figures that `gradcam methods` shows, measured again on fewer scenes."""

import pytest

from gradcam_multi import metrics
from gradcam_multi.cam.evidence import evidence
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes

SCENES = 4
FEW = {
    "rise": 500, "ss-cam": 2, "is-cam": 2, "smoothgradcam++": 4, "smoothgrad": 8,
    "integrated-gradients": 10,
}  # fmt: skip
# Over these scenes a method's correlations have deviations of up to 0.3, so that a mean of four
# has an error of 0.15; stored are means of 16 scenes and three redraws.
TOLERANCE = 0.3


def scenes():
    return as_inputs(draw_scenes(SCENES, seed=VALIDATION_SEED, marks="random"))


def check_evidence(name, model, redrawn):
    """Compare a method's figures on a network, and on it with redrawn weights, with those kept."""
    stored, inputs = evidence()[name], scenes()
    options = {"method": name, "samples": FEW.get(name)}
    weights = metrics.model_similarity(model, redrawn, inputs, **options).mean()
    classes = metrics.random_logit(model, inputs, **options).mean()
    assert weights == pytest.approx(stored.weights, abs=TOLERANCE)
    assert classes == pytest.approx(stored.classes, abs=TOLERANCE)
