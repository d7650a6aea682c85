"""The live page in a browser: the maps are Python's, and nothing leaves this machine."""

import http.client
import json
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

from gradcam_multi_onnx.demo import build
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.demo import load_examples, load_network
from gradcam_multi.errors import ExportError, MissingExtraError
from gradcam_multi.live import find_runtime, make_server, write_live

# Float32 in other kernels, and pixels that another decoder may have rounded otherwise: 3e-7
# measured for these pictures, 5e-5 for photographs through a half-precision SqueezeNet.
TOLERANCE = 1e-3
EVIL = "<img src=x onerror=\"document.title='owned'\">"
LABELS = [f"class {EVIL}", *"bcdefgh"]
PREPARE = gm.Preprocess(fit="crop", crop_ratio=0.8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


@pytest.fixture(scope="module")
def runtime():
    try:
        found = find_runtime()
    except MissingExtraError:
        pytest.skip("gradcam-multi-web is not installed; python -m pip install ./web builds it")
    return found


@pytest.fixture(scope="module")
def model():
    return build(load_network("sound"))


@pytest.fixture(scope="module")
def site(runtime, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    write_live(model, folder, preprocess=PREPARE, labels=LABELS, title=f"live {EVIL}")
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A picture of an odd size, so that it is resized and cropped on the way."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    scene = Image.fromarray(load_examples()[2].image).resize((203, 157), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).integers(-20, 20, (157, 203, 3))
    Image.fromarray(np.clip(np.asarray(scene) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@contextmanager
def served(folder):
    with make_server(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def ready(tab, address):
    tab.page.goto(address)
    tab.until("document.getElementById('said').textContent.startsWith('ready') || "
              "document.getElementById('wrong').textContent")  # fmt: skip
    assert tab.page.inner_text("#wrong") == ""
    tab.page.evaluate("""window.found = [];
      document.addEventListener("gradcam:explained", ({ detail }) => window.found.push(
        { ...detail, heatmap: Array.from(detail.heatmap), scores: Array.from(detail.scores) }))""")


def check(tab, model, photo, number, asked=None):
    """The number-th explanation of the page is that of Python."""
    tab.until(f"window.found.length === {number}")
    found = tab.page.evaluate(f"window.found[{number - 1}]")
    inputs, _ = PREPARE.apply(gm.load_image(photo), size=(96, 96))
    wanted = gm.Explainer(model)(inputs[None], asked)
    assert found["class"] == wanted.classes[0]
    heatmap = np.reshape(found["heatmap"], found["size"])
    assert heatmap.max() == 1
    np.testing.assert_allclose(heatmap, wanted.heatmap[0], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found["scores"], wanted.logits[0], rtol=0, atol=TOLERANCE)
    p = found["probabilities"][found["class"]]
    assert p == pytest.approx(float(wanted.probabilities[0]), abs=TOLERANCE)


def test_a_dropped_picture(tab, site, model, photo):
    with served(site) as address:
        ready(tab, address)
        assert tab.page.evaluate("crossOriginIsolated")
        tab.drop(photo)
        check(tab, model, photo, 1)
        runner_up = tab.page.locator("#classes input").nth(2)
        index = int(runner_up.get_attribute("data-index"))
        runner_up.click()
        check(tab, model, photo, 2, index)
        tab.page.locator("#other").fill("e")
        tab.page.locator("#other").press("Enter")
        check(tab, model, photo, 3, 4)
        tab.page.locator("#other").fill("99")
        tab.page.locator("#other").press("Enter")
        assert tab.page.inner_text("#wrong") == "there is no class 99"
        # Names are text; only this machine was asked, and no rule of the page was broken.
        assert tab.page.title() == tab.page.inner_text("h1") == f"live {EVIL}"
        assert f"class {EVIL}" in tab.page.locator("#names option").first.get_attribute("value")
        assert tab.page.locator("img").count() == 0
        tab.page.locator("#notices summary").click()
        tab.until("document.querySelector('#notices pre').textContent.includes('MIT License')")
    assert tab.hosts() == {"127.0.0.1"}
    assert tab.complaints == []


def test_what_is_wrong_is_said(tab, site, photo, tmp_path):
    with served(site) as address:
        ready(tab, address)
        (tmp_path / "notes.txt").write_text("no picture")
        tab.drop(tmp_path / "notes.txt")
        wrong = "document.getElementById('wrong').textContent"
        tab.until(wrong)
        assert tab.page.inner_text("#wrong").startswith("notes.txt is not a picture")
        tab.page.evaluate("void (navigator.mediaDevices.getUserMedia = () => Promise.reject("
                          "new DOMException('', 'NotFoundError')))")  # fmt: skip
        tab.page.locator("#camera").click()
        tab.until(f"{wrong} === 'no camera: there is none'")
    broken = tmp_path / "broken"
    shutil.copytree(site, broken)
    (broken / "model.onnx").unlink()
    with served(broken) as address:
        tab.page.goto(address)
        tab.until(f"{wrong} === 'model.onnx is not beside this page (404)'")
    shutil.copy(photo, broken / "model.onnx")
    with served(broken) as address:
        tab.page.goto(address)
        tab.until(f"{wrong}.startsWith('model.onnx is no heatmap file')")
    tab.page.goto((site / "index.html").as_uri())
    tab.until(f"{wrong}.includes('--single-file')")


def test_the_camera(tab, site):
    with served(site) as address:
        ready(tab, address)
        tab.page.locator("#camera").click()
        tab.until("window.found.length >= 3")
        tab.page.locator("#camera").click()
        assert tab.page.get_attribute("#camera", "aria-pressed") == "false"


def test_one_file_from_the_disk(tab, runtime, model, photo, tmp_path):
    path = write_live(model, tmp_path / "live.html", single_file=True, preprocess=PREPARE)
    assert list(tmp_path.iterdir()) == [path]
    ready(tab, path.as_uri())
    tab.drop(photo)
    check(tab, model, photo, 1)
    assert tab.hosts() == set()
    assert tab.complaints == []


# Of each filter, smaller, larger and unchanged; 5 to 1 along one axis makes weights of many cells.
SIZES = [((37, 53), (12, 11)), ((9, 11), (40, 30)), ((20, 55), (20, 11)), ((16, 16), (16, 16))]


def test_resizing_is_pillows_to_the_bit(tab, site):
    rng = np.random.default_rng(1)
    with served(site) as address:
        tab.page.goto(address)
        for how in ("nearest", "bilinear", "bicubic", "lanczos"):
            for size, wanted in SIZES:
                pixels = rng.integers(0, 256, (*size, 3), np.uint8)
                pixels[: size[0] // 2] = 255 * (pixels[: size[0] // 2] > 127)  # overshoots
                found = tab.page.evaluate(
                    "([data, size, wanted, how]) => Array.from(gradcamInput.resized("
                    "{ data, size, channels: 3 }, wanted, how).data)",
                    [pixels.ravel().tolist(), size, wanted, how],
                )
                found = np.reshape(found, (*wanted, 3))
                filtered = Image.Resampling[how.upper()]
                image = Image.fromarray(pixels)
                across = image.resize((wanted[1], size[0]), filtered)
                down = np.asarray(across.resize(wanted[::-1], filtered))
                np.testing.assert_array_equal(found, down, f"{how} {size} {wanted}")
                # In one step, Pillow 13 goes down first for some sizes, and rounds then.
                own = np.asarray(image.resize(wanted[::-1], filtered)).astype(int)
                assert np.abs(found - own).max() <= 1


def test_preprocessing_is_that_of_python(tab, site):
    """Every preset and what they do not have, on pictures wide and tall: equal but for
    the level of 255 that Pillow's order of the axes makes in some of the cells.
    """
    cases = [
        *gm.preprocess.PRESETS.values(), PREPARE,
        gm.Preprocess(channels="L", mean=0.5, layout="channels_last", interpolation="lanczos"),
        gm.Preprocess(fit="crop", crop_ratio=0.875, interpolation="bicubic", channels="BGR"),
    ]  # fmt: skip
    rng = np.random.default_rng(2)
    with served(site) as address:
        tab.page.goto(address)
        for prepare in cases:
            for height, width in ((33, 47), (50, 31)):
                image = rng.integers(0, 256, (height, width, 3), np.uint8)
                data = np.dstack([image, np.full((height, width), 255, np.uint8)])
                values, where = prepare.apply(image, size=(16, 20))
                found = tab.page.evaluate(
                    """([prepare, data, width, height]) => { const made = gradcamInput.prepared(
                      prepare, { data, width, height }, [16, 20], "channels_first");
                      return [Array.from(made.values), made.shape, made.view]; }""",
                    [json.loads(prepare.to_json()), data.ravel().tolist(), width, height],
                )
                own = np.reshape(np.array(found[0], np.float32), found[1])
                level = abs(prepare.scale) / np.min(prepare.std)
                np.testing.assert_allclose(own, values, rtol=0, atol=1.01 * level)
                assert np.mean(own == values) > 0.7
                view = np.divide(where.box, [height, width, height, width])
                np.testing.assert_allclose(found[2], view, rtol=1e-12)


def test_halves_are_numpys(tab, site):
    values = np.random.default_rng(3).normal(size=200) * 10.0 ** np.arange(-8, 12).repeat(10)
    values = np.array([*values, 0, 65504, 65519, 65520, 6e-8, 2.9e-8, 1 + 2**-11], np.float32)
    with served(site) as address:
        tab.page.goto(address)
        found = tab.page.evaluate(
            "(values) => Array.from(gradcamModel.halves(Float32Array.from(values)))",
            values.tolist(),
        )
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(found, values.astype(np.float16).view(np.uint16))


def asked(address, path, host=None):
    connection = http.client.HTTPConnection(address.split("/")[2])
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


def test_the_server(site):
    with served(site) as address:
        types = {
            "/": "text/html; charset=utf-8", "/live.js": "text/javascript",
            "/runtime/ort.wasm.bundle.min.mjs": "text/javascript",
            "/runtime/ort-wasm-simd-threaded.wasm": "application/wasm", "/page.css": "text/css",
        }  # fmt: skip
        for path, kind in types.items():
            answer = asked(address, path)
            assert answer.status == 200
            assert answer.getheader("Content-Type") == kind
            assert answer.getheader("Cross-Origin-Opener-Policy") == "same-origin"
            assert answer.getheader("Cross-Origin-Embedder-Policy") == "require-corp"
        assert asked(address, "/runtime/").status == 404
        assert asked(address, "/../secret").status == 404
        assert asked(address, "/", host="elsewhere.example").status == 421
        with pytest.raises(ExportError, match="cannot be served"):
            make_server(site, int(address.split(":")[2].strip("/")))


def test_the_runtime_from_elsewhere(site, runtime, tmp_path):
    """A folder, an address of this machine; an unprotected one and other files are refused."""
    folder = site / "runtime"
    assert find_runtime(str(folder)).by_name() == runtime.by_name()
    with served(folder) as address:
        assert find_runtime(address).wasm == runtime.wasm
        with pytest.raises(ExportError, match=r"ort\.wasm\.bundle\.min\.mjs: File not found"):
            find_runtime(f"{address}absent")
    with pytest.raises(ExportError, match="would be read unprotected"):
        find_runtime("http://elsewhere.example/dist")
    with pytest.raises(ExportError, match="No such file or directory; give a folder with"):
        find_runtime(str(tmp_path))
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / name).write_bytes(b"// ONNX Runtime Web v1\n")
    with pytest.raises(ExportError, match="is not ONNX Runtime Web's"):
        find_runtime(str(tmp_path))
