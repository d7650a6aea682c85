"""The page's data: what a row becomes, that text stays text, and what is counted."""

import base64
import json
import sys

import numpy as np
import pytest
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.errors import MissingExtraError
from gradcam_multi.page import ClassMap, Row, need_jinja, page_of
from gradcam_multi.page.assets import policy, script_json
from gradcam_multi.page.encoding import TOTAL, encoded, quantised
from gradcam_multi.page.notebook import mimebundle
from gradcam_multi.page.overview import overview
from gradcam_multi.targets import ClassScore


def decoded(said):
    return np.frombuffer(base64.b64decode(said["map"]), np.uint8).reshape(said["grid"])


def test_maps_as_eight_bits():
    """Half a level of 255 of the map's range, whatever its unit."""
    for scale, offset in ((1, 0), (1e-12, 5e-12), (3e8, -1e8)):
        cam = (np.random.default_rng(0).random((7, 9)) * scale + offset).astype(np.float32)
        levels = decoded(quantised(cam))
        low, high = float(cam.min()), float(cam.max())
        back = low + levels / 255 * (high - low)
        # float32 keeps the offset's digits: 1e-7 of 6e-12 beside a range of 1e-12
        np.testing.assert_allclose(back, cam, rtol=0, atol=0.501 * (high - low) / 255)
    assert decoded(quantised(np.full((2, 2), 3.0, np.float32))).max() == 0
    holes = np.array([[np.nan, 1], [2, np.inf]], np.float32)
    assert decoded(quantised(holes)).tolist() == [[0, 0], [255, 0]]


def test_the_peak_and_the_view():
    cam = np.zeros((4, 5), np.float32)
    cam[3, 1] = 2
    picture = np.zeros((40, 80, 3), np.uint8)
    row = Row("x", picture, (ClassMap("a", cam=cam),), view=(4.0, 8.0, 36.0, 72.0))
    said = encoded(row, 1)
    assert said["classes"][0]["peak"] == [3.5 / 4, 1.5 / 5]
    assert said["view"] == [0.1, 0.1, 0.9, 0.9]
    assert said["size"] == [40, 80]


def test_a_thousand_pictures_are_under_20_mb():
    """Noise is what no format makes small; five maps of 56 x 56 cells beside each picture."""
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(3):
        picture = rng.integers(0, 256, (600, 900, 3), np.uint8)
        maps = tuple(ClassMap(f"class {k}", cam=rng.random((56, 56))) for k in range(5))
        said = encoded(Row("folder/name.jpg", picture, maps), 1000)
        assert said["classes"][0]["grid"] == [28, 28]
        assert max(said["drawn"]) >= 96
        taken = max(taken, len(json.dumps(said)))
    assert taken <= TOTAL / 1000
    few = encoded(Row("name.jpg", picture, maps), 3)
    assert few["classes"][0]["grid"] == [56, 56]
    photo = np.asarray(Image.fromarray(picture).resize((30, 20)).resize((900, 600)))
    assert max(encoded(Row("name.jpg", photo), 3)["drawn"]) == 900


def test_json_in_a_script_element():
    value = {"a": "</script><!-- & \u2028\u2029", "b": [1, None, "ä"]}
    text = script_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="Out of range"):
        script_json([float("nan")])


def test_a_policy_names_its_scripts():
    # printf 'alert(1)' | openssl dgst -sha256 -binary | base64
    said = policy(["alert(1)"], connect_src="'self'")
    assert "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='" in said
    assert said.startswith("default-src 'none'; ")
    assert "connect-src 'self'" in said


def row(label, shown, p, correct, peak=(0, 0), **more):
    cam = np.zeros((8, 8), np.float32)
    cam[peak] = 1
    return encoded(
        Row("x", None, (ClassMap(shown, 1.0, p, cam),), None, label, correct, **more), 100
    )


def test_what_is_counted():
    rows = [
        *(row("cat", "cat", 0.95, True) for _ in range(4)),
        row("cat", "dog", 0.92, False, (7, 7)), row("dog", "cat", 0.5, False, (7, 7)),
        row(None, "cat", 1.0, None), encoded(Row("y", error="damaged"), 100),
    ]  # fmt: skip
    found = overview(rows)
    assert found.tiles == (
        ("8", "pictures"), ("66.7 %", "right of 6 with a label"),
        ("1", "wrong with a probability of 0.9 or more"), ("1", "could not be read"),
    )  # fmt: skip
    assert [(bar.name, bar.total) for bar in found.classes] == [
        ("cat", 5), ("dog", 1), ("no label", 1)
    ]  # fmt: skip
    cat = found.classes[0].parts
    assert [(part.kind, part.count, part.start, part.extent) for part in cat] == [
        ("right", 4, 0.0, 0.8), ("wrong", 1, 0.8, 0.2)
    ]  # fmt: skip
    assert [bar.total for bar in found.confidence] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 6]
    assert (found.peaks[0][0], found.peaks[7][7], found.most_peaks) == (5, 2, 5)
    many = overview([row(f"class {n}", "a", 0.5, True) for n in range(20)])
    assert len(many.classes) == 13
    assert many.classes[-1].name == "8 others"
    assert many.classes[-1].total == 8


@pytest.fixture
def explanation():
    logits = np.zeros((2, 3), np.float32)
    return gm.Explanation(
        np.random.default_rng(0).random((2, 4, 5)).astype(np.float32), ("ok", "ok"), np.zeros(2),
        (ClassScore(0), ClassScore(1)), logits, logits, "layer", "gradcam", "none", "logits",
        (16, 20),
    )  # fmt: skip


def test_without_jinja2(explanation, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"gradcam-multi\[report\]"):
        need_jinja()
    with pytest.raises(MissingExtraError):
        explanation.save(tmp_path / "x.html")
    assert sorted(mimebundle(explanation)) == ["image/png", "text/plain"]


def test_in_a_notebook(explanation):
    pytest.importorskip("jinja2", reason="Jinja2 is not installed")
    bundle = explanation._repr_mimebundle_()
    assert sorted(bundle) == ["image/png", "text/html", "text/plain"]
    assert 'sandbox="allow-scripts"' in bundle["text/html"]
    assert bundle["text/html"].count("<") == 2  # of the frame; the page in it is escaped
    line = gm.Explanation(**{**explanation._fields(), "cam": explanation.cam[:, 0], "size": (9,)})
    assert list(line._repr_mimebundle_()) == ["text/plain"]


def test_saved_as_a_page(explanation, tmp_path):
    pytest.importorskip("jinja2", reason="Jinja2 is not installed")
    picture = np.zeros((32, 40, 3), np.uint8)
    path = explanation.save(tmp_path / "x.html", [picture, picture])
    text = path.read_text(encoding="utf-8")
    assert "item 1" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    with pytest.raises(gm.ImageError, match="1 pictures were given for 2 items"):
        explanation.save(tmp_path / "x.html", [picture])
    with pytest.raises(gm.ImageError, match="cannot write"):
        page_of([], 0).write(tmp_path / "absent" / "x.html")
