"""The stored sanity checks against the demo's network, and against what is said of them."""

from pathlib import Path

import pytest
from stored_evidence import check_evidence, scenes

from gradcam_multi import METHODS, GradcamError, explain, metrics
from gradcam_multi.cam.evidence import LIMIT, Evidence, evidence
from gradcam_multi.demo import load_network

ON_TOKENS = [name for name, found in evidence().items() if found.network == "tokens"]


@pytest.fixture(scope="module")
def networks():
    model = load_network("sound")
    names = metrics.weighted_layers(model)
    return model, metrics.shuffled(model, names)


def test_every_method_has_evidence():
    assert list(evidence()) == list(METHODS), "run examples/measure_sanity.py"


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ON_TOKENS])
def test_stored_figures_are_found_again(networks, name):
    check_evidence(name, *networks)


# Their figures are found again in tests/torch/test_torch_token_scenes.py.
@pytest.mark.parametrize("name", ON_TOKENS)
def test_what_is_measured_on_tokens_refuses_this_network(networks, name):
    with pytest.raises(GradcamError):
        explain(networks[0], scenes(), method=name)


def test_what_looks_at_no_score_is_blind_to_the_class():
    for name, method in METHODS.items():
        if not method.needs:
            assert evidence()[name].classes == 1
            assert "class" in evidence()[name].blind_to


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
        f"| {name} | {e.weights:.2f} | {e.classes:.2f} | {', '.join(e.blind_to) or '-'} |"
        for name, e in evidence().items()
    ]
