"""What an audit finds: the demo's shortcut and nothing in the sound network, and each rule."""

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
from audit_scenes import COUNT

import gradcam_multi as gm
from gradcam_multi.audit.figures import CORNERS
from gradcam_multi.audit.findings import least_share, places, sure_and_wrong
from gradcam_multi.audit.gathered import NUMBERS, Gathered
from gradcam_multi.audit.result import maps_of
from gradcam_multi.demo import CLASSES

UNIT = {"preprocess": "unit", "labels": CLASSES, "progress": False, "part": 50}


@pytest.fixture(scope="module")
def audits(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audits")
    return {
        name: gm.audit(getattr(scenes, name), scenes.table, folder / name, **UNIT)
        for name in ("sound", "shortcut")
    }


def test_the_shortcut_networks_corners_and_classes_are_named(audits):
    found = audits["shortcut"].summary["findings"]["places"]
    assert {each["name"] for each in found if each["kind"] == "corner"} == set(CLASSES)
    for each in found:
        assert each["share"] > 0.5
        # The mark is in any of the four corners of a scene.
        assert set(each["corners"]) <= set(CORNERS)
        assert sum(each["corners"].values()) == pytest.approx(each["share"])
    first = audits["shortcut"].summary["first"][0]
    assert "the attention sits in a corner in 100% of 20 images" in first["what"]
    assert first["images"][0]["path"].startswith("pictures/")
    assert first["what"] in str(audits["shortcut"])


def test_nothing_is_found_in_the_sound_network(audits):
    summary = audits["sound"].summary
    assert summary["findings"]["places"] == []
    assert summary["findings"]["outliers"]["count"] == 0
    assert summary["first"] == []
    assert "corner in" not in str(audits["sound"])


def test_the_figures_of_a_class_are_those_of_its_rows(audits):
    audit = audits["sound"]
    table = audit.table()
    found = table.to_pylist()
    maps = maps_of(table)
    assert audit.summary["accuracy"] == np.mean([row["correct"] for row in found])
    for each in audit.summary["classes"]:
        mine = [row for row in found if row["target"] == each["class"]]
        assert each["name"] == CLASSES[each["class"]]
        assert each["explained"] == len(mine) == COUNT // 8
        assert each["entropy"] == pytest.approx(np.median([row["entropy"] for row in mine]))
        assert each["peak_in_box"] == np.mean([row["peak_in_box"] for row in mine])
        assert each["box_energy"] == pytest.approx(np.mean([row["box_energy"] for row in mine]))
        largest = [max(row[f"{name}_energy"] for name in CORNERS) for row in mine]
        assert each["largest_corner_energy"] == pytest.approx(np.median(largest))
        own = maps[[row["target"] == each["class"] for row in found]]
        mean = (own / own.sum((1, 2), keepdims=True)).mean(0)
        # Four digits are written.
        np.testing.assert_allclose(each["mean_map"], mean, rtol=1e-3, atol=1e-6)


def made(count, **numbers):
    """Rows of one class whose evidence lies anywhere, but for what is given."""
    even = {f"{name}_energy": 1 / 16 for name in CORNERS} | {"border_energy": 7 / 16}
    columns = {name: np.full(count, even.get(name, np.nan), np.float32) for name in NUMBERS}
    columns["index"] = np.arange(count)
    columns["target"] = np.zeros(count, np.float32)
    for name, values in numbers.items():
        columns[name] = np.asarray(np.broadcast_to(values, count), np.float32).copy()
    return Gathered(
        numbers=columns,
        top=np.zeros(count, np.int32),
        top_probability=np.full(count, 0.95, np.float32),
        status=np.zeros(count, np.int8),
        mean_maps={},
        names={},
        failed=[],
        unknown={},
    )


def test_a_few_images_with_a_watermark_are_named_each():
    """The watermark case: 12 of 300 images of a class look at the bottom left."""
    energy = np.full(300, 0.05)
    marked = np.arange(7, 300, 25)
    energy[marked] = 0.8
    classes, images = places(made(300, bottom_left_energy=energy), ["horse"])
    assert sorted(image["row"] for image in images) == marked.tolist()
    assert {image["place"] for image in images} == {"bottom_left"}
    (found,) = classes
    assert (found["name"], found["there"], found["corners"]) == ("horse", 12, {"bottom_left": 0.04})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, False),
        ({"top_left_energy": 0.49}, False),  # below half
        ({"top_left_energy": 0.51}, True),
        ({"top_left_energy": 0.9, "peak_in_box": 1}, False),  # the object is in the corner
        ({"top_left_energy": 0.9, "peak_in_box": 0}, True),
        ({"border_energy": 0.74}, False),
        ({"border_energy": 0.76}, True),
    ],
    ids=str,
)
def test_a_class_is_named_where_half_of_its_evidence_sits_in_a_place(changes, named):
    classes, images = places(made(40, **changes), ["horse"])
    assert bool(classes) == named
    assert images == []  # all alike: none is far from its class


def test_chance_and_few_images_are_not_named():
    rng = np.random.default_rng(0)
    energy = {name: np.full(400, 0.05) for name in CORNERS}
    # Attention that lies anywhere: a quarter of it in the corners, each image in one cell of 16.
    cell = rng.integers(16, size=400)
    for number, name in enumerate(CORNERS):
        energy[name][cell == number] = 0.9
    columns = {f"{name}_energy": values for name, values in energy.items()}
    classes, images = places(made(400, **columns), ["horse"])
    assert [each for each in classes if each["there"] == each["images"]] == []
    assert len(images) == (cell < 4).sum()
    assert places(made(4, top_left_energy=0.9), ["horse"])[0] == []


def test_the_least_share_is_wilsons_interval():
    """The share p at which what was counted is 2.576 standard deviations too many, by bisection."""
    for count, total in [(5, 5), (12, 300), (1, 3), (250, 250), (9, 40)]:
        low, high = 0.0, count / total
        for _ in range(80):
            middle = (low + high) / 2
            z = (count / total - middle) / np.sqrt(middle * (1 - middle) / total)
            low, high = (middle, high) if z > 2.576 else (low, middle)
        assert least_share(count, total) == pytest.approx(low, abs=1e-9)
    assert least_share(0, 9) == pytest.approx(0, abs=1e-12)
    assert least_share(0, 0) == 0


def test_wrong_predictions_are_named_from_a_probability_on_surest_first():
    found = made(4, correct=[0, 1, 0, 0])
    found.top_probability[:] = [0.91, 0.99, 0.97, 0.89]
    assert sure_and_wrong(found).tolist() == [2, 0]


def test_a_class_that_is_wrong_is_a_suggestion(scenes, tmp_path):
    """Half of the labels of one class are another's: sure, wrong, and a weak class."""
    lines = scenes.table.read_text().splitlines()
    changed = [
        line.replace(",fish,", ",mug,") if ",fish," in line and row % 16 < 8 else line
        for row, line in enumerate(lines)
    ]
    (scenes.folder / "wrong.csv").write_text("\n".join(changed))
    audit = gm.audit(scenes.sound, scenes.folder / "wrong.csv", tmp_path / "o", **UNIT)
    table = audit.table().to_pylist()
    wrong = [row for row in table if row["correct"] is False]
    assert len(wrong) == 10
    sure = [row for row in wrong if row["top5_probabilities"][0] >= 0.9]
    listed = audit.summary["findings"]["sure_and_wrong"]
    assert listed["count"] == len(sure) > 0
    assert {each["index"] for each in listed["images"]} == {row["index"] for row in sure}
    assert {(each["name"], each["predicted_name"]) for each in listed["images"]} == {
        ("mug", "fish")
    }
    assert any(each["what"].startswith("mug: 67% of 30 images are right") for each in
               audit.summary["first"])  # fmt: skip
