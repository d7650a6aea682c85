"""Every target: its score against a slow loop, its derivative against central differences."""

from math import exp, log, sqrt

import numpy as np
import pytest

import gradcam_multi as gm
from gradcam_multi import targets
from gradcam_multi.errors import TargetError, UnknownClassError
from gradcam_multi.targets import Item

RNG = np.random.default_rng(0)
ROW = np.array([0.3, -1.2, 2.0, 0.7])
MAP = RNG.normal(size=(3, 4, 5))
VECTOR = RNG.normal(size=7)
WORDS = RNG.normal(size=(4, 6))
# Six proposals: two near the first box, one of them in the second scale, one beside, three far.
BOXES = np.array([[0, 0, 10, 10], [30, 30, 40, 40], [0, 8, 10, 18], [50, 0, 60, 9.0]])
COARSE = np.array([[1, 1, 11, 10], [70, 70, 90, 90.0]])
SCORES, COARSE_SCORES = RNG.normal(size=(4, 3)), RNG.normal(size=(2, 3))
ITEM = Item(
    {
        "row": ROW, "map": MAP, "vector": VECTOR, "words": WORDS, "boxes": BOXES, "coarse": COARSE,
        "scores": SCORES, "coarse_scores": COARSE_SCORES,
    },
    "row",
    size=(8, 10),
)  # fmt: skip
HEADS = (gm.BoxHead("scores", "boxes"), gm.BoxHead("coarse_scores", "coarse"))
OVERLAP = 0.5


def smooth(found):
    return (found**3).sum() + np.log1p(np.exp(found)).max() * 2


def two_outputs(found):
    return float(np.sin(found["row"]).sum() * found["vector"][0])


# Each target with the score that a slow loop gives: (target, expected).
CASES = {
    "ClassScore": [(gm.ClassScore(2), 2.0)],
    "TopClass": [(gm.TopClass(1), 0.7)],
    "Probability": [(gm.Probability(1), exp(-1.2) / sum(exp(z) for z in ROW))],
    "LogProbability": [
        (gm.LogProbability(1), -1.2 - log(sum(exp(z) for z in ROW))),
        (gm.LogProbability(), 2.0 - log(sum(exp(z) for z in ROW))),
    ],
    "ClassDifference": [
        (gm.ClassDifference(), 2.0 - 0.7),
        (gm.ClassDifference(1), -1.2 - 2.0),
        (gm.ClassDifference(None, 2), 0.7 - 2.0),
        (gm.ClassDifference(0, 3, 0.5), 0.3 - 0.5 * 0.7),
        (gm.ClassDifference(2, [0, 1]), 2.0 - 0.5 * 0.3 + 0.5 * 1.2),
        (gm.ClassDifference(2, [0, 1], [2.0, 3.0]), 2.0 - 2 * 0.3 + 3 * 1.2),
    ],
    "MultiLabel": [
        (gm.MultiLabel([0, 3]), 0.3 + 0.7),
        (gm.MultiLabel(), 0.3 + 2.0 + 0.7),
        (gm.MultiLabel([1, 2], [2.0, -1.0]), -2.4 - 2.0),
    ],
    "Regression": [
        (gm.Regression(unit=1), -1.2),
        (gm.Regression(-1, 1.5, unit=2), 1.5 - 2.0),
        (gm.Regression(None, 1.0, unit=0), 1.0 - 0.3),
        (gm.Regression(None, 1.0, unit=2), 2.0 - 1.0),
    ],
    "RegionScore": [
        (gm.RegionScore(1, output="map"), sum(
            MAP[1, i, j] for i in range(4) for j in range(5)
            if all(MAP[1, i, j] >= MAP[k, i, j] for k in range(3))
        )),
        (gm.RegionScore(2, (3, 1), output="map"), MAP[2, 3, 1]),
        (gm.RegionScore(0, np.arange(20).reshape(4, 5) % 3 == 0, output="map"), sum(
            MAP[0, i, j] for i in range(4) for j in range(5) if (5 * i + j) % 3 == 0
        )),
    ],
    "BoxScore": [
        (gm.BoxScore((0, 0, 10, 10), 1, HEADS), SCORES[0, 1] + COARSE_SCORES[0, 1]),
        (gm.BoxScore((0, 0, 10, 10), 1, HEADS, overlap=0.1),
         SCORES[0, 1] + SCORES[2, 1] + COARSE_SCORES[0, 1]),
        (gm.BoxScore(heads=HEADS[:1]), SCORES.max()),
    ],
    "Similarity": [
        (gm.Similarity(np.arange(7.0), output="vector"),
         sum(k * VECTOR[k] for k in range(7))
         / sqrt(sum(k * k for k in range(7))) / sqrt(sum(v * v for v in VECTOR))),
        (gm.Similarity(np.arange(7.0), "dot", output="vector"),
         sum(k * VECTOR[k] for k in range(7))),
    ],
    "TokenLogProbability": [
        (gm.TokenLogProbability([5, 0], [1, -1], output="words"), sum(
            WORDS[t, v] - log(sum(exp(z) for z in WORDS[t])) for t, v in ((1, 5), (3, 0))
        )),
        (gm.TokenLogProbability(output="words"), sum(
            max(row) - log(sum(exp(z) for z in row)) for row in WORDS
        )),
    ],
    "FunctionScore": [
        (gm.FunctionScore(smooth), smooth(ROW)),
        (gm.FunctionScore(two_outputs, outputs=("row", "vector")),
         sum(np.sin(z) for z in ROW) * VECTOR[0]),
        (gm.FunctionScore(lambda z: (z**2).sum(), lambda z: 2 * z), sum(z * z for z in ROW)),
    ],
    "Binary": [],  # of one unit, below
}  # fmt: skip
ALL = [(target, value) for cases in CASES.values() for target, value in cases]


def scored(target, item=ITEM, activation=None):
    """Score and derivatives by output, whatever the target reads; as it is, not resolved."""
    if isinstance(target, targets.Target):
        score, derivative = target.score(item[item.output], activation)
        return score, {item.output: derivative}
    return target.score_item(item)


def resolved(target, item=ITEM):
    if isinstance(target, targets.Target):
        return target.resolve(item[item.output], item.labels)
    return target.resolve_item(item)


def changed(item, name, index, step):
    arrays = dict(item)
    arrays[name] = arrays[name].copy()
    arrays[name][index] += step
    return Item(arrays, item.output, size=item.size, layout=item.layout)


def check_derivatives(target, item=ITEM, activation=None, tolerance=1e-8):
    """Central differences in float64 over every entry of every output, named or not."""
    _, derivatives = scored(target, item, activation)
    for name in item:
        slope = derivatives.get(name, np.zeros_like(item[name]))
        assert slope.shape == item[name].shape
        measured = np.zeros_like(slope)
        for index in np.ndindex(slope.shape):
            up, down = (
                scored(target, changed(item, name, index, s), activation)[0] for s in (1e-6, -1e-6)
            )
            measured[index] = (up - down) / 2e-6
        # The error is of the order of the step squared, and 1e-16 / 1e-6 of the score.
        np.testing.assert_allclose(slope, measured, rtol=1e-7, atol=tolerance)


def test_every_target_has_a_case():
    kinds = {
        name for name in targets.__all__
        if isinstance(getattr(targets, name), type)
        and hasattr(getattr(targets, name), "describe" if name not in _PLAIN else "resolve")
    } - {"Target", "ItemTarget"}  # fmt: skip
    assert kinds == set(CASES)
    assert kinds < set(gm.__all__)


_PLAIN = {"ClassScore", "LogProbability", "Probability", "TopClass"}


@pytest.mark.parametrize(("target", "expected"), ALL, ids=lambda x: type(x).__name__)
def test_score_and_derivative(target, expected):
    settled = resolved(target)
    score, _ = scored(settled)
    assert score == pytest.approx(expected, rel=1e-12)
    check_derivatives(settled)
    again, _ = scored(resolved(settled))  # what a comparison hands to another model
    assert again == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("target", [t for t, _ in ALL if not isinstance(t, gm.ClassScore)],
                         ids=lambda x: type(x).__name__)  # fmt: skip
def test_a_target_names_itself(target):
    name = getattr(target, "describe", lambda labels: "class")(None)
    assert name
    assert "array" not in name
    assert "\n" not in name


@pytest.mark.parametrize("activation", [None, "softmax", "sigmoid"])
@pytest.mark.parametrize("index", range(4))
def test_log_probability(index, activation):
    target = gm.LogProbability(index)
    p, _ = gm.Probability(index).score(ROW, activation)
    assert target.score(ROW, activation)[0] == pytest.approx(log(p), rel=1e-12)
    check_derivatives(target, Item({"row": ROW}), activation)


def test_log_probability_never_overflows():
    for activation, least in (("softmax", -2e4), ("sigmoid", -1e4)):
        score, derivative = gm.LogProbability(0).score(np.array([-1e4, 0.0, 1e4]), activation)
        assert score == pytest.approx(least)
        assert derivative[0] == pytest.approx(1)


@pytest.mark.parametrize("positive", [True, False])
def test_binary(positive):
    z = np.array([0.7])
    target = gm.Binary(positive)
    score, _ = target.score(z, "sigmoid")
    check_derivatives(target, Item({"row": z}))
    p = 1 / (1 + exp(-score))
    assert target.probability_of(targets.probability(z, "sigmoid")) == pytest.approx(p)
    assert target.describe(["no", "yes"]) == ("yes" if positive else "no")
    assert target.describe(None) == ("positive" if positive else "negative")
    with pytest.raises(TargetError, match=r"4 units, not one: .* ClassDifference\(1, 0\)"):
        target.resolve(ROW, None)


def test_difference_of_two_logits_is_the_log_odds():
    p = targets.probability(ROW, "softmax")
    score, _ = gm.ClassDifference(0, 3).resolve(ROW, None).score(ROW, None)
    assert score == pytest.approx(log(p[0] / p[3]))


def test_differences_and_sums_by_name():
    labels = ["ant", "bee", "cat", "dog"]
    found = gm.ClassDifference("cat", "dog").resolve(ROW, labels)
    assert (found.index, found.others) == (2, (3,))
    assert found.describe(labels) == "cat, not dog"
    assert gm.MultiLabel(["ant", "dog"]).resolve(ROW, labels).indices == (0, 3)
    assert gm.MultiLabel().resolve(-np.abs(ROW), None).indices == (0,)  # none is found: the top
    for wrong, match in [
        (gm.ClassDifference(2, 2), "do not hold the class itself"),
        (gm.ClassDifference(2, [0, 1], [1.0]), "1 weights were given for 2 other classes"),
        (gm.MultiLabel([0, 0]), "give each class once"),
        (gm.MultiLabel([0, 1], [1.0]), "1 weights were given for 2 classes"),
        (gm.MultiLabel([0, 4]), "class 4 was asked for; the output has 4 classes"),
        (gm.Regression(unit=4), "value of unit 4 was asked for; the output has 4"),
        (gm.Regression(2), "direction 2 was asked for"),
    ]:
        with pytest.raises(TargetError, match=match):
            wrong.resolve(ROW, labels)
    with pytest.raises(TargetError, match=r"one class: give Binary\(\)"):
        gm.ClassDifference().resolve(ROW[:1], None)


def test_a_row_with_infinity_gives_no_nan():
    row = np.array([0.3, -np.inf, 2.0])
    assert gm.ClassDifference(2, 0).resolve(row, None).score(row, None)[0] == 2.0 - 0.3
    assert gm.MultiLabel([0, 2]).resolve(row, None).score(row, None)[0] == 2.3


# Regions.


def region(scores, size=(8, 10), layout="channels_first", **asked):
    item = Item({"y": scores}, size=size, layout=layout)
    found = gm.RegionScore(**asked).resolve_item(item)
    return found, *found.score_item(item)


@pytest.mark.parametrize("grid", [(6,), (4, 5), (2, 3, 4)])
def test_regions_of_any_rank_in_both_layouts(grid):
    scores = np.random.default_rng(1).normal(size=(3, *grid))
    size = (16,) * len(grid)
    first, total, slopes = region(scores, size, index=1)
    last = region(np.moveaxis(scores, 0, -1), size, "channels_last", index=1)
    assert last[1] == pytest.approx(total)
    np.testing.assert_array_equal(last[2]["y"], np.moveaxis(slopes["y"], 0, -1))
    np.testing.assert_array_equal(slopes["y"][1], scores.argmax(0) == 1)
    assert not slopes["y"][[0, 2]].any()
    assert first.region.shape == grid
    named = region(np.moveaxis(scores, 0, -1), size, index=1, layout="channels_last")
    assert named[1] == total


def test_the_class_is_the_one_that_is_predicted_most_in_the_region():
    scores = np.zeros((3, 4, 4))
    scores[0, 0], scores[1, 1:3], scores[2, 3] = 1, 1, 1  # rows of classes 0, 1, 1, 2
    assert region(scores, index=None)[0].index == 1
    assert region(scores, region=(3, 2))[0].index == 2
    mask = np.zeros((4, 4))
    mask[0, 1:] = 1
    assert region(scores, region=mask)[0].index == 0


def test_a_mask_of_the_input_is_taken_at_the_nearest_cells():
    mask = np.zeros((8, 10), bool)
    mask[2:6, 4:] = True  # rows 1 and 2 of 4, columns 2 to 4 of 5
    found, total, _ = region(MAP, index=0, region=mask)
    expected = np.zeros((4, 5), bool)
    expected[1:3, 2:] = True
    np.testing.assert_array_equal(found.region, expected)
    assert total == pytest.approx(MAP[0, 1:3, 2:].sum())
    # To a finer grid each cell of the mask is repeated.
    fine = np.random.default_rng(0).normal(size=(1, 16, 20))
    np.testing.assert_array_equal(
        region(fine, region=mask)[0].region, mask.repeat(2, 0).repeat(2, 1)
    )


@pytest.mark.parametrize("shape", [(1, 4, 5), (4, 5)])
def test_heads_of_one_channel_say_yes_or_no(shape):
    scores = np.random.default_rng(2).normal(size=shape)
    size = (4, 5)
    _, yes, slope = region(scores, size)
    assert yes == pytest.approx(scores[scores > 0].sum())
    np.testing.assert_array_equal(slope["y"], scores > 0)
    _, no, slope = region(scores, size, positive=False)
    assert no == pytest.approx(-scores[scores <= 0].sum())
    np.testing.assert_array_equal(slope["y"], -1.0 * (scores <= 0))


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"index": 3}, "class 3 was asked for; the output has 3 classes"),
        ({"index": 0, "region": (4, 0)}, r"cell \(4, 0\) was asked for; the output's grid is"),
        ({"region": np.ones((3, 3))}, r"\(3, 3\) was asked for; .* \(4, 5\), the input's size"),
        ({"region": np.eye(8, 10, 9) > 0}, "marks no cell"),
        ({"region": "all"}, "'all' was asked for"),
        ({"region": (1, 2, 3)}, r"\(1, 2, 3\) was asked for"),
        ({"positive": False}, "3 channels, not one"),
        ({"output": "z"}, "reads output 'z'"),
    ],
)
def test_regions_that_do_not_fit(asked, match):
    with pytest.raises(TargetError, match=match):
        region(MAP, **asked)


def test_a_class_that_is_predicted_nowhere_has_a_region_without_cells():
    """One picture without the class must not stop a batch of them."""
    scores = np.zeros((2, 4, 4))
    scores[0] = 1
    for found, total, slopes in (
        region(scores, index=1),
        region(scores[:1], positive=False),
        region(scores, index=1, region=np.zeros((4, 4))),
    ):
        assert found.describe(None).endswith(" in 0 cells")
        assert total == 0
        assert not slopes["y"].any()
        again = found.resolve_item(Item({"y": scores[: len(slopes["y"])]}, size=(8, 10)))
        assert not again.region.any()
    with pytest.raises(TargetError, match=r"has the shape \(4,\) an item: a region needs a map"):
        region(ROW, (8, 10))


# Boxes.


def overlap_by_cells(one, other):
    """Intersection over union of boxes with whole corners, counted cell by cell."""
    cells = [
        {(x, y) for x in range(int(a), int(c)) for y in range(int(b), int(d))}
        for a, b, c, d in (one, other)
    ]
    either = cells[0] | cells[1]
    return len(cells[0] & cells[1]) / len(either) if either else 0.0


def test_intersection_over_union_by_counting_cells():
    from gradcam_multi.targets.detections import intersection_over_union

    boxes = np.random.default_rng(3).integers(0, 12, (60, 4)).astype(float)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])  # some without area
    for box in boxes[:10]:
        np.testing.assert_allclose(
            intersection_over_union(boxes, box), [overlap_by_cells(each, box) for each in boxes]
        )


@pytest.mark.parametrize("form", ["xyxy", "yxyx", "xywh", "cxcywh"])
def test_boxes_of_every_form_are_the_same(form):
    x1, y1, x2, y2 = BOXES.T
    columns = {
        "xyxy": [x1, y1, x2, y2],
        "yxyx": [y1, x1, y2, x2],
        "xywh": [x1, y1, x2 - x1, y2 - y1],
        "cxcywh": [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1],
    }[form]
    item = Item({"y": np.concatenate([np.stack(columns, 1), SCORES], 1)})
    target = gm.BoxScore(BOXES[1], heads=gm.BoxHead(form=form)).resolve_item(item)
    assert target.index == SCORES[1].argmax()
    assert target.score_item(item)[0] == SCORES[1].max()
    check_derivatives(target, item)


def test_proposals_with_channels_in_front_and_an_objectness():
    """(4 + 1 + classes, P), as YOLO heads are; the score is the product, and so its derivative."""
    objectness = np.array([0.9, 0.8, 0.7, 0.6])
    rows = np.concatenate([BOXES, objectness[:, None], SCORES], 1)
    item = Item({"y": rows.T.copy()})
    for first in (5, None):
        head = gm.BoxHead(channel_axis=0, objectness=4, first_class=first)
        target = gm.BoxScore(BOXES[0], 2, head, overlap=0.1).resolve_item(item)
        score, _ = target.score_item(item)
        assert score == pytest.approx(0.9 * SCORES[0, 2] + 0.7 * SCORES[2, 2])
        check_derivatives(target, item)


def test_anchors_that_share_a_cell_and_boxes_that_are_decoded():
    """(A * classes, H, W) scores on a grid of cells; offsets are decoded by a function."""
    scores = np.random.default_rng(4).normal(size=(2 * 3, 2, 2))
    offsets = np.zeros((2 * 4, 2, 2))
    sides = (8.0, 4.0)

    def decode(item):
        return np.array([
            [16 * x + item["offsets"][4 * a, y, x], 16 * y, 16 * x + side, 16 * y + side]
            for y in range(2) for x in range(2) for a, side in enumerate(sides)
        ])  # fmt: skip

    item = Item({"scores": scores, "offsets": offsets}, "scores")
    head = gm.BoxHead(boxes=decode, channel_axis=0, anchors=2)
    target = gm.BoxScore((16, 0, 20, 4), 1, head, overlap=0.9).resolve_item(item)
    score, slopes = target.score_item(item)
    assert score == scores[3 + 1, 0, 1]  # the second anchor of the cell in row 0, column 1
    assert slopes["scores"].sum() == slopes["scores"][3 + 1, 0, 1] == 1
    fixed = gm.BoxHead(boxes=decode(item), channel_axis=0, anchors=2)
    again = gm.BoxScore((16, 0, 20, 4), 1, fixed, overlap=0.9).resolve_item(item)
    assert again.score_item(item)[0] == score


def test_boxes_that_do_not_fit():
    head = HEADS[0]
    for target, match in [
        (gm.BoxScore((200, 0, 210, 10), heads=head), r"closest of 4 .* overlap=0.5"),
        (gm.BoxScore((0, 0, 10), heads=head), "give x1, y1, x2, y2"),
        (gm.BoxScore(heads=gm.BoxHead("scores", "boxes", "center")), "'center' were named"),
        (gm.BoxScore(heads=gm.BoxHead("scores", "coarse")), r"boxes \(2, 4\) and scores \(4, 3\)"),
        (gm.BoxScore(heads=gm.BoxHead("scores", "boxes", anchors=2)), "2 anchors along axis -1"),
        (gm.BoxScore(heads=gm.BoxHead("row")), r"shape \(4,\) an item"),
        (gm.BoxScore(heads=[head, gm.BoxHead("words", "boxes")]), r"\[3, 6\] classes"),
        (gm.BoxScore(heads=gm.BoxHead("score", "boxes")), "did you mean 'scores'"),
    ]:
        with pytest.raises(TargetError, match=match):
            target.resolve_item(ITEM)
    with pytest.raises(UnknownClassError, match="class 3 was asked for"):
        gm.BoxScore(index=3, heads=HEADS).resolve_item(ITEM)


# Embeddings and tokens.


def test_similarity_at_its_limits():
    item = Item({"y": np.zeros(7)})
    cosine, slopes = gm.Similarity(VECTOR).score_item(item)
    assert cosine == 0
    assert not slopes["y"].any()
    item = Item({"y": 1e-30 * VECTOR.reshape(7, 1, 1)})
    cosine, slopes = gm.Similarity(VECTOR).score_item(item)
    assert cosine == pytest.approx(1)
    assert np.isfinite(slopes["y"]).all()
    with pytest.raises(TargetError, match="reference has 3 entries; output 'y' has the shape"):
        gm.Similarity(VECTOR[:3]).resolve_item(item)
    with pytest.raises(TargetError, match="'euclid' was asked for"):
        gm.Similarity(VECTOR, "euclid").resolve_item(item)


def test_tokens_by_name_and_position():
    labels = ["the", "a", "cat", "sat", "on", "mat"]
    item = Item({"y": WORDS}, labels=labels)
    found = gm.TokenLogProbability(["the", "cat"]).resolve_item(item)
    assert (found.tokens, found.positions) == ((0, 2), (0, 1))
    assert found.describe(labels) == "the cat at 0, 1"
    assert gm.TokenLogProbability("mat", -1).resolve_item(item).positions == (3,)
    top = gm.TokenLogProbability(positions=2).resolve_item(item)
    assert top.tokens == (WORDS[2].argmax(),)
    row = gm.TokenLogProbability(3).resolve_item(Item({"y": WORDS[0]}))  # one position only
    assert row.score_item(Item({"y": WORDS[0]}))[1]["y"].shape == (6,)
    for wrong, match in [
        (gm.TokenLogProbability(0, 4), "position 4 was asked for; the output has 4"),
        (gm.TokenLogProbability([0, 1, 2, 3, 4]), "position 4 was asked for"),
        (gm.TokenLogProbability([0, 1], [0]), "2 tokens were given for 1 positions"),
        (gm.TokenLogProbability(6), "class 6 was asked for"),
        (gm.TokenLogProbability([]), "position None"),
    ]:
        with pytest.raises(TargetError, match=match):
            wrong.resolve_item(item)
    with pytest.raises(TargetError, match=r"they need \(positions, vocabulary\)"):
        gm.TokenLogProbability().resolve_item(Item({"y": MAP}))


# Functions.


def test_a_measured_derivative_is_that_of_the_function():
    """Against the exact one, at scales of twelve orders of magnitude."""
    for scale in (1e-6, 1.0, 1e6):
        row = ROW * scale
        item = Item({"y": row})
        _, slopes = gm.FunctionScore(lambda z: np.tanh(z / scale).sum()).score_item(item)  # noqa: B023, called at once
        exact = (1 - np.tanh(ROW) ** 2) / scale
        # Steps of 6e-6 of the largest entry: rounding, 2e-16 / 6e-6, is what remains.
        np.testing.assert_allclose(slopes["y"], exact, rtol=1e-8, atol=1e-9 / scale)


def test_functions_that_cannot_be_measured():
    large = Item({"y": np.zeros((3, 64, 64))})
    with pytest.raises(TargetError, match=r"12288 entries .* takes 49152 calls .* derivative="):
        gm.FunctionScore(np.sum).score_item(large)
    assert gm.FunctionScore(np.sum, np.ones_like).score_item(large)[0] == 0
    with pytest.raises(TargetError, match=r"two steps, which differ .* not float64 throughout"):
        gm.FunctionScore(lambda z: np.exp(z.astype(np.float32)).sum()).score_item(ITEM)
    with pytest.raises(TargetError, match="is not smooth there"):
        gm.FunctionScore(lambda z: float(z[0] + 1e-6 * np.sign(z[0] - 0.3 - 1e-6))).score_item(ITEM)
    with pytest.raises(TargetError, match=r"returned float64 \(4,\): a score is one number"):
        gm.FunctionScore(np.sin).score_item(ITEM)
    assert gm.FunctionScore(lambda z: 1.0).score_item(ITEM)[1]["row"].tolist() == [0.0] * 4


def test_a_given_derivative_is_checked():
    with pytest.raises(TargetError, match="correct it, or give check=False"):
        gm.FunctionScore(lambda z: (z**2).sum(), lambda z: z).score_item(ITEM)
    surrogate = gm.FunctionScore(lambda z: (z**2).sum(), lambda z: z, check=False)
    np.testing.assert_array_equal(surrogate.score_item(ITEM)[1]["row"], ROW)
    # One that computes in float32 passes: the check is for mistakes, not for precision.
    gm.FunctionScore(
        lambda z: np.exp(z.astype(np.float32)).sum(), lambda z: np.exp(z.astype(np.float32))
    ).score_item(ITEM)
    with pytest.raises(TargetError, match=r"has the shape \(1,\); output 'row' has \(4,\)"):
        gm.FunctionScore(np.sum, lambda z: np.ones(1)).score_item(ITEM)
    with pytest.raises(TargetError, match="return a dict with an array for each"):
        gm.FunctionScore(two_outputs, lambda z: z["row"], ("row", "vector")).score_item(ITEM)


def test_a_function_may_write_to_its_argument():
    def careless(found):
        found *= 2
        return found.sum()

    score, slopes = gm.FunctionScore(careless).score_item(ITEM)
    assert score == pytest.approx(2 * ROW.sum())
    np.testing.assert_allclose(slopes["row"], 2, rtol=1e-9)  # as above: rounding over the step


def test_arrays_in_any_order_of_memory_are_the_same():
    """What an adapter hands over may be a view with its axes turned."""
    turned = Item({"y": np.asfortranarray(MAP)}, size=(8, 10))
    for target in (gm.FunctionScore(lambda z: (z**2).sum()), gm.RegionScore(1)):
        plain = target.resolve_item(Item({"y": MAP}, size=(8, 10)))
        expected = plain.score_item(Item({"y": MAP}, size=(8, 10)))
        found = target.resolve_item(turned).score_item(turned)
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1]["y"], expected[1]["y"])
        assert found[1]["y"].any()
