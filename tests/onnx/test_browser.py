"""Heatmap files in ONNX Runtime Web: in Node, and the page of docs/browser.md in a browser.

Needs `npm install onnxruntime-web` where Node looks for it: here, or in a folder of NODE_PATH.
"""

import functools
import http.server
import json
import queue
import re
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

from gradcam_multi_onnx.demo import build
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.demo import as_inputs, load_examples, load_network

ROOT = Path(__file__).parents[2]
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
CLASSES = (-1, 0, 2)
TOLERANCE = 1e-4  # float32 in other kernels, in maps stretched to [0, 1]; 3e-6 measured


def node(script: str, *arguments: str) -> str:
    return subprocess.run(
        ["node", "-e", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=True,
    ).stdout  # fmt: skip


@functools.cache
def web() -> Path:
    """The folder of ONNX Runtime Web's files."""
    if shutil.which("node") is None:
        pytest.skip("Node is not installed")
    try:
        return Path(node("console.log(require.resolve('onnxruntime-web'))").strip()).parent
    except subprocess.CalledProcessError:
        pytest.skip("Node finds no onnxruntime-web; npm install it, or set NODE_PATH")


@functools.cache
def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = [path for path in map(shutil.which, names) if path]
    return found[0] if found else pytest.skip("no chromium is installed")


@pytest.fixture(scope="module")
def model() -> bytes:
    built: bytes = build(load_network("sound"))
    return built


def check(model: bytes, inputs: np.ndarray, jobs: list, results: list) -> None:
    explainer = gm.Explainer(model)
    assert len(results) == len(jobs)
    for (place, asked), (found, heatmap) in zip(jobs, results, strict=True):
        wanted = explainer(inputs[place : place + 1], None if asked < 0 else asked)
        assert found == wanted.classes[0]
        values = np.array(heatmap, np.float32).reshape(wanted.heatmap[0].shape)
        np.testing.assert_allclose(values, wanted.heatmap[0], rtol=0, atol=TOLERANCE)


IN_NODE = """
const ort = require("onnxruntime-web"), fs = require("fs");
const [file, values, asked] = process.argv.slice(1);
ort.env.wasm.numThreads = 1;
(async () => {
  const session = await ort.InferenceSession.create(fs.readFileSync(file), {logSeverityLevel: 4});
  const [name] = session.inputNames, shape = session.inputMetadata[0].shape, found = [];
  const all = new Float32Array(new Uint8Array(fs.readFileSync(values)).buffer);
  const size = 3 * shape[2] * shape[3];
  for (const [place, index] of JSON.parse(asked)) {
    const picture = all.subarray(place * size, (place + 1) * size);
    const feeds = {[name]: new ort.Tensor("float32", picture, [1, 3, shape[2], shape[3]])};
    if (index !== null) feeds.class_index = new ort.Tensor("int64", [BigInt(index)], [1]);
    try {
      const {class: top, heatmap} = await session.run(feeds, ["class", "heatmap"]);
      found.push([Number(top.data[0]), Array.from(heatmap.data)]);
    } catch (error) { found.push(String(error)); }
  }
  console.log(JSON.stringify(found));
})();
"""


def in_node(path: Path, folder: Path, inputs: np.ndarray, jobs: list) -> list:
    inputs.astype(np.float32).tofile(folder / "inputs.bin")
    found = node(IN_NODE, str(path), str(folder / "inputs.bin"), json.dumps(jobs))
    results: list = json.loads(found)
    return results


def test_maps_in_node(tmp_path: Path, model: bytes) -> None:
    web()
    inputs = as_inputs(load_examples())[:3]
    path = gm.export(model, tmp_path / "heatmap.onnx", class_input="required")
    jobs = [[place, asked] for place in range(3) for asked in CLASSES]
    check(model, inputs, jobs, in_node(path, tmp_path, inputs, jobs))


def test_an_optional_class_cannot_be_given(tmp_path: Path, model: bytes) -> None:
    """What docs/browser.md says of it; left out, it is the top class."""
    web()
    inputs = as_inputs(load_examples())[:1]
    path = gm.export(model, tmp_path / "heatmap.onnx")
    top, refused = in_node(path, tmp_path, inputs, [[0, None], [0, 1]])
    check(model, inputs, [[0, -1]], [top])
    assert "invalid input 'class_index'" in refused


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, and keeps what is posted."""

    def __init__(self, folder: Path) -> None:
        self.posted: queue.Queue = queue.Queue()
        handler = functools.partial(Handler, directory=str(folder))
        super().__init__(("127.0.0.1", 0), handler)


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *given: object) -> None:
        """Nothing: the tests' output is for failures."""

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.posted.put(json.loads(self.rfile.read(length)))
        self.send_response(204)
        self.end_headers()


ASKING = """
<script>
  (async () => {
    let found = [];
    try {
      for (const [place, index] of JOBS) {
        const blob = await (await fetch(`${place}.png`)).blob();
        const picture = await createImageBitmap(blob, { colorSpaceConversion: "none" });
        const { class: top, heatmap } = await explain(picture, index);
        found.push([top, Array.from(heatmap)]);
      }
    } catch (error) { found = String(error); }
    await fetch("/found", { method: "POST", body: JSON.stringify(found) });
  })();
</script>
"""


def test_the_page_in_a_browser(tmp_path: Path, model: bytes) -> None:
    chromium, profile, site = browser(), tmp_path / "profile", tmp_path / "site"
    site.mkdir()
    for name in FILES:
        shutil.copy(web() / name, site / name)
    text = (ROOT / "docs" / "browser.md").read_text(encoding="utf-8")
    page = re.search(r"```html\n(.*?)```", text, re.DOTALL)
    assert page is not None
    gm.export(model, site / "heatmap.onnx", preprocess="unit", class_input="required")
    inputs = as_inputs(load_examples())[:3]
    for place, one in enumerate(inputs):
        pixels = np.round(np.moveaxis(one, 0, -1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(site / f"{place}.png")
    jobs = [[place, asked] for place in range(3) for asked in CLASSES]
    asking = ASKING.replace("JOBS", json.dumps(jobs))
    (site / "index.html").write_text(page[1] + asking, encoding="utf-8")
    with Server(site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = subprocess.Popen(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
             f"http://127.0.0.1:{server.server_port}/index.html"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            found = server.posted.get(timeout=120)
        finally:
            opened.terminate()
            opened.wait(30)
            server.shutdown()
    assert isinstance(found, list), found
    check(model, inputs, jobs, found)
