"""The stored sanity checks against the demo's network, and against what is said of them."""

import warnings
from pathlib import Path

import pytest

from gradcam_multi import METHODS, CamWarning, Explainer, GradcamError, metrics
from gradcam_multi.cam.evidence import LIMIT, Evidence, evidence
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes, load_network

SCENES = 4
FEW = {
    "rise": 500, "ss-cam": 2, "is-cam": 2, "smoothgradcam++": 4, "smoothgrad": 8,
    "integrated-gradients": 10,
}  # fmt: skip
# Over these scenes a method's correlations have deviations of up to 0.3, so that a mean of four
# has an error of 0.15; stored are means of 16 scenes and three redraws.
TOLERANCE = 0.3


@pytest.fixture(scope="module")
def networks():
    model = load_network("sound")
    names = metrics.weighted_layers(model)
    return model, metrics.shuffled(model, names)


def test_every_method_has_evidence():
    assert list(evidence()) == list(METHODS), "run examples/measure_sanity.py"


@pytest.mark.parametrize("name", METHODS)
def test_stored_figures_are_found_again(networks, name):
    model, redrawn = networks
    inputs = as_inputs(draw_scenes(SCENES, seed=VALIDATION_SEED, marks="random"))
    stored, options = evidence()[name], {"method": name, "samples": FEW.get(name)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)
        if stored is None:
            with pytest.raises(GradcamError):
                Explainer(model, **options)(inputs)
            return
        weights = metrics.model_similarity(model, redrawn, inputs, **options).mean()
        classes = metrics.random_logit(model, inputs, **options).mean()
    assert weights == pytest.approx(stored.weights, abs=TOLERANCE)
    assert classes == pytest.approx(stored.classes, abs=TOLERANCE)


def test_what_looks_at_no_score_is_blind_to_the_class():
    for name, method in METHODS.items():
        found = evidence()[name]
        if not method.needs and found is not None:
            assert found.classes == 1
            assert "class" in found.blind_to


def test_blindness_is_a_correlation_above_the_limit():
    assert Evidence(LIMIT, LIMIT).blind_to == ()
    assert Evidence(LIMIT + 0.01, 1).blind_to == ("weights", "class")


def test_the_documented_table_is_what_is_stored():
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    if not page.exists():
        pytest.skip("docs/ is absent")
    text = page.read_text(encoding="utf-8").partition("<!-- sanity: begin -->\n")[2]
    rows = text.partition("<!-- sanity: end -->")[0].splitlines()[2:]
    assert rows == [
        f"| {name} | - | - | not measured |" if e is None
        else f"| {name} | {e.weights:.2f} | {e.classes:.2f} | {', '.join(e.blind_to) or '-'} |"
        for name, e in evidence().items()
    ]  # fmt: skip
