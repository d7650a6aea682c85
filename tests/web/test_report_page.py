"""The page of pictures in a browser: what it shows, and that it can be used by keyboard alone."""

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="Jinja2 is not installed")

from PIL import Image

import gradcam_multi as gm
from gradcam_multi.cam import rescale
from gradcam_multi.geometry import Geometry
from gradcam_multi.page import ClassMap, Row, page_of
from gradcam_multi.page.notebook import mimebundle
from gradcam_multi.targets import ClassScore

EVIL = "<img src=x onerror=\"document.title='owned'\">"
CLOSING = "</script><script>document.title='owned'</script><!--"
SIZE = (60, 80)
VIEW = (6.0, 16.0, 54.0, 64.0)


def maps(seed):
    return np.random.default_rng(seed).random((7, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    """Twelve pictures of three classes; names that would be HTML; one that failed."""
    picture = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    made = []
    for n in range(11):
        classes = tuple(
            ClassMap(f"{name} {EVIL}", 3.0 - rank, 0.9 - 0.3 * rank - n / 100, maps(3 * n + rank))
            for rank, name in enumerate(("cat", "dog", "cow"))
        )
        classes += (ClassMap("without map", 0.0, 0.01),)
        made.append(
            Row(
                f"folder/{n}{CLOSING}.png" if n == 3 else f"folder/{n}.png",
                picture,
                classes,
                VIEW,
                label=f"cat {EVIL}" if n % 2 else CLOSING,
                correct=bool(n % 2),
                findings=("corner",) if n in (2, 5) else (),
            )
        )
    made.append(Row("folder/broken.png", error="it is damaged <b>"))
    return made


@pytest.fixture
def report(tab, rows, tmp_path):
    page = page_of(
        rows,
        len(rows),
        title=CLOSING,
        facts=[("model", EVIL)],
        findings={"corner": "the evidence lies in a corner <b>"},
    )
    tab.page.goto(page.write(tmp_path / "report.html").as_uri())
    tab.until("document.querySelector('.card canvas').width > 1")
    return tab


def count(report):
    return report.page.locator(".card").count()


def test_names_are_text_and_nothing_is_asked_for(report, tmp_path):
    page = report.page
    assert page.title() == CLOSING
    assert page.inner_text("h1") == CLOSING
    assert EVIL in page.inner_text(".facts")
    assert page.locator(".card .title").nth(3).get_attribute("title").endswith(f"3{CLOSING}.png")
    page.locator(".open").nth(3).click()
    dialog = page.inner_text("dialog")
    assert EVIL in dialog
    assert CLOSING in dialog
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("b").count() == 0
    assert report.complaints == []
    assert {url.split(":")[0] for url in report.asked} <= {"file", "data"}
    assert [url for url in report.asked if url.startswith("file")] == [
        (tmp_path / "report.html").as_uri()
    ]


def test_heatmaps_are_those_of_python(report, rows):
    """In the page from eight bits a cell: a value and the lowest are half a level of 255 off at
    most, and so is the range, of which interpolation leaves two thirds or more in these maps.
    """
    where = Geometry(SIZE, VIEW)
    for n in (0, 4):
        for rank in (0, 2):
            found = report.page.evaluate(
                f"""(() => {{ const row = gradcamCards.page.rows[{n}];
                const {{values, size}} = gradcamCards.heatmapOf(row, row.classes[{rank}]);
                return [Array.from(values, (v) => Number.isNaN(v) ? null : v), size]; }})()"""
            )
            values = np.array(found[0], np.float32).reshape(found[1])
            wanted = where.restore(rows[n].classes[rank].cam, fill=np.nan)
            seen = ~np.isnan(wanted)
            np.testing.assert_array_equal(seen, ~np.isnan(values))
            wanted = rescale(wanted[seen][None])[0]
            np.testing.assert_allclose(values[seen], wanted, rtol=0, atol=1.5 / 255)


def test_how_maps_look(report):
    page = report.page
    opacity = "getComputedStyle(document.querySelector('.card canvas')).opacity"
    assert page.evaluate(opacity) == "0.5"
    page.locator("#opacity").fill("0.9")
    assert page.evaluate(opacity) == "0.9"
    pixels = """(() => { const c = document.querySelector('.card canvas');
      return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data) })()"""
    pictures = [np.reshape(page.evaluate(pixels), (-1, 4))]
    page.select_option("#raw", "raw")
    pictures.append(np.reshape(page.evaluate(pixels), (-1, 4)))
    assert len(np.unique(pictures[0], axis=0)) > 100 > 36 >= len(np.unique(pictures[1], axis=0))
    page.select_option("#colormap", "gray")
    grey = np.reshape(page.evaluate(pixels), (-1, 4))
    assert (grey[:, 0] == grey[:, 2]).all()
    page.locator("#threshold").fill("0.5")
    cut = np.reshape(page.evaluate(pixels), (-1, 4))
    assert cut[cut[:, 3] > 0, 0].min() >= 127
    assert 0 < (cut[:, 3] > 0).sum() < (grey[:, 3] > 0).sum()


def test_filters(report):
    page = report.page
    assert count(report) == 12
    page.select_option("#answer", "right")
    assert count(report) == 5
    assert page.inner_text("#counted") == "5 of 12 pictures"
    page.locator("button[type=reset]").click()
    report.until("document.getElementById('counted').textContent === '12 pictures'")
    page.select_option("#class", CLOSING)
    assert count(report) == 6
    page.locator("button[type=reset]").click()
    page.select_option("#status", "!error")
    assert page.locator(".trouble").all_text_contents() == ["it is damaged <b>"]
    page.locator("button[data-finding=corner]").click()
    report.until("document.querySelectorAll('.card').length === 2")
    page.locator("button[type=reset]").click()
    page.locator("#text").fill("BROK")
    assert count(report) == 1
    page.locator("#text").fill("")
    page.select_option("#order", "low")
    # Not the inner text: a card is drawn once it comes near the window (content-visibility).
    assert page.locator(".card .title").nth(1).text_content() == "10.png"


def test_by_keyboard_alone(report):
    page = report.page
    label = "document.activeElement.getAttribute('aria-label')"
    page.locator(".open").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    across = page.evaluate("""[...document.querySelectorAll('.card')]
      .filter((card, _, all) => card.offsetTop === all[0].offsetTop).length""")
    assert page.evaluate(label).startswith(f"folder/{1 + across}.png, cat {EVIL}")
    assert "most evidence" in page.evaluate(label)
    page.keyboard.press("2")
    assert page.evaluate(label).startswith(f"folder/{1 + across}.png, dog")
    page.keyboard.press("4")
    assert "no map of this class was kept" in page.evaluate(label)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    assert dialog.locator("input:checked + .name").inner_text().startswith("dog")
    page.keyboard.press("3")
    assert dialog.locator("input:checked + .name").inner_text().startswith("cow")
    page.locator("dialog [aria-label=close]").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text("dialog h2") == f"folder/{2 + across}.png"
    page.keyboard.press("+")
    assert page.input_value("#opacity") == "0.55"
    page.keyboard.press("Escape")
    # The dialog's "close" event, which takes the focus to the picture shown last, comes later.
    report.until(f"{label}.startsWith('folder/{2 + across}.png')")
    assert not page.evaluate("document.querySelector('dialog').open")
    page.keyboard.press("Home")
    assert page.evaluate(label).startswith("folder/0.png")
    # One card is in the tab order: a thousand pictures are one stop, then what follows them.
    assert page.locator(".open[tabindex='0']").count() == 1


def test_every_control_has_a_name(report):
    unnamed = """[...document.querySelectorAll('button, select, input, [role=img]')]
      .filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim()
        || (e.labels && e.labels.length))).map((e) => e.outerHTML)"""
    assert report.page.evaluate(unnamed) == []
    report.page.locator(".open").first.click()
    assert report.page.evaluate(unnamed) == []


def test_light_dark_and_narrow(report):
    page = report.page
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(paper)
    assert light != dark
    page.locator("#theme").click()
    assert page.evaluate(paper) == light
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_in_a_notebook(tab):
    """The frame runs the small page, and cannot reach the notebook around it."""
    logits = np.zeros((2, 3), np.float32)
    explanation = gm.Explanation(
        np.stack([maps(1), maps(2)]), ("ok", "ok"), np.zeros(2), (ClassScore(0), ClassScore(1)),
        logits, logits, "layer", "gradcam", "none", "logits", SIZE,
    )  # fmt: skip
    bundle = mimebundle(explanation)
    assert bundle["image/png"].startswith(b"\x89PNG")
    tab.page.set_content(bundle["text/html"])
    frame = tab.page.frame_locator("iframe")
    frame.locator(".card canvas").nth(1).wait_for()
    assert frame.locator(".card").count() == 2
    assert frame.locator("#text").count() == 0
    assert tab.page.locator("iframe").get_attribute("sandbox") == "allow-scripts"
    assert tab.complaints == []


def test_the_command_writes_the_page(tab, tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from click.testing import CliRunner
    from gradcam_multi_onnx.demo import build

    from gradcam_multi.cli import main
    from gradcam_multi.demo import CLASSES, load_examples, load_network

    (tmp_path / "model.onnx").write_bytes(build(load_network("sound")))
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    for n, scene in enumerate(load_examples()[:2]):
        Image.fromarray(scene.image).save(tmp_path / f"{n}.png")
    (tmp_path / "2.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    result = CliRunner().invoke(main, [
        "explain", str(tmp_path / "model.onnx"), *(str(tmp_path / f"{n}.png") for n in range(3)),
        "--preprocess", "unit", "--labels", str(tmp_path / "labels.txt"), "--html", "-o", str(out),
    ])  # fmt: skip
    assert result.exit_code == 1, result.output  # one picture could not be read
    tab.page.goto((out / "report.html").as_uri())
    assert tab.page.locator(".card").count() == 3
    options = tab.page.locator(".card select").first.locator("option").all_inner_texts()
    assert len(options) == 5
    assert options[0].startswith(f"{CLASSES[load_examples()[0].label]} 9")
    assert "no picture" in tab.page.locator(".trouble").nth(2).text_content()
