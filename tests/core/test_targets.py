import numpy as np
import pytest

from gradcam_multi import ClassScore, Probability, TopClass
from gradcam_multi.errors import TargetCountError, TargetError, UnknownClassError
from gradcam_multi.targets import as_targets, class_scores, probability

LOGITS = np.array([0.3, -1.2, 2.0, 0.7])


def numeric(target, logits, activation, step=1e-6):
    slopes = []
    for k in range(len(logits)):
        up, down = logits.copy(), logits.copy()
        up[k] += step
        down[k] -= step
        slopes.append(
            (target.score(up, activation)[0] - target.score(down, activation)[0]) / (2 * step)
        )
    return slopes


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
@pytest.mark.parametrize(
    "target", [ClassScore(1), Probability(1), Probability(2), TopClass(0), TopClass(3)]
)
def test_derivative_is_that_of_the_score(target, activation):
    _, derivative = target.score(LOGITS, activation)
    # Central differences in float64: the error is of the order of the step squared.
    np.testing.assert_allclose(derivative, numeric(target, LOGITS, activation), atol=1e-8)


def test_probability_of_one_unit_is_a_sigmoid():
    p, derivative = Probability(0).score(np.array([0.5]), None)
    assert p == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert derivative[0] == pytest.approx(p * (1 - p))


def test_probability_never_overflows():
    for activation in ("softmax", "sigmoid"):
        p = probability(np.array([-1e4, 0.0, 1e4]), activation)
        assert np.isfinite(p).all()
        assert p[2] == pytest.approx(1)


def test_top_classes_are_in_order_and_ties_take_the_lower_index():
    ranked = [
        TopClass(rank).resolve(np.array([1.0, 3.0, 3.0, 2.0]), None).index for rank in range(4)
    ]
    assert ranked == [1, 2, 3, 0]
    assert TopClass().resolve(np.array([np.nan, 1.0]), None) == ClassScore(1)


def test_names_are_found_with_their_synonyms():
    labels = [
        "tench, Tinca tinca",
        "goldfish, Carassius auratus",
        "Tabby, tabby cat",
        "crane",
        "crane",
    ]
    logits = np.zeros(5)
    for name, index in [
        ("goldfish", 1),
        ("tabby cat", 2),
        ("TENCH", 0),
        ("Goldfish, carassius auratus", 1),
    ]:
        assert ClassScore(name).resolve(logits, labels) == ClassScore(index)
    with pytest.raises(
        UnknownClassError, match="no class is called 'goldfisch'; did you mean 'goldfish'"
    ):
        ClassScore("goldfisch").resolve(logits, labels)
    with pytest.raises(UnknownClassError, match="2 classes are called so"):
        ClassScore("crane").resolve(logits, labels)
    with pytest.raises(UnknownClassError, match="no labels were given"):
        ClassScore("goldfish").resolve(logits, None)


@pytest.mark.parametrize("index", [-1, 4, 5000])
def test_no_such_class(index):
    with pytest.raises(UnknownClassError, match=f"class {index} .* 4 classes"):
        Probability(index).resolve(LOGITS, None)
    with pytest.raises(UnknownClassError, match="rank 4"):
        TopClass(4).resolve(LOGITS, None)


def test_one_for_all_or_one_for_each():
    assert as_targets(None, 2) == [TopClass(), TopClass()]
    assert as_targets(3, 2) == [ClassScore(3)] * 2
    assert as_targets(np.int64(3), 1) == [ClassScore(3)]
    assert as_targets("cat", 1) == [ClassScore("cat")]
    assert as_targets([1, Probability(2)], 2) == [ClassScore(1), Probability(2)]
    assert as_targets(np.array([4, 5]), 2) == [ClassScore(4), ClassScore(5)]
    for targets, count in [([1, 2, 3], 2), ([1], 2), ([], 1)]:
        with pytest.raises(
            TargetCountError, match=f"{len(targets)} targets were given for {count} item"
        ):
            as_targets(targets, count)


@pytest.mark.parametrize("target", [1.5, True, {"a": 1}, [1.5, 2.5], object()])
def test_anything_else_is_an_error(target):
    with pytest.raises(TargetError, match="give a class index"):
        as_targets(target, 2)


def test_singleton_axes_are_dropped_and_maps_refused():
    assert class_scores(np.zeros((2, 1000, 1, 1), np.float32), "y").shape == (2, 1000)
    assert class_scores(np.zeros((2, 1), np.float32), "y").shape == (2, 1)
    assert class_scores(np.zeros(2, np.float32), "y").shape == (2, 1)
    with pytest.raises(TargetError, match=r"'y' has the shape \(2, 21, 8, 8\)"):
        class_scores(np.zeros((2, 21, 8, 8)), "y")
