"""An audit of a folder, beside a bare loop that decodes the same pictures and runs the network.

The loop does nothing else: no heatmaps, no scores, no table. Decoding and preprocessing are the
same functions; the network is the demo's, small, so that what surrounds inference weighs most.
"""

import shutil

import numpy as np
import pytest
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.demo import draw_scenes, load_network
from gradcam_multi.plugins import installed

ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
pytest.importorskip("pyarrow", reason="needs pyarrow")

PICTURES, BATCH = 5000, 32  # so many that opening the model, a tenth of a second, weighs little


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number, scene in enumerate(draw_scenes(PICTURES, seed=1, marks="label")):
        Image.fromarray(scene.image).save(folder / f"{number:05}.png")
    return folder


def test_audit_onnx(pictures, tmp_path, turns, record_turns):
    content = installed().build(load_network("shortcut"), "onnx")
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    prepare, files = gm.Preprocess.named("unit"), sorted(pictures.iterdir())

    def bare():
        for start in range(0, len(files), BATCH):
            images = [gm.load_image(file) for file in files[start : start + BATCH]]
            session.run(
                None, {name: np.stack([prepare.apply(i, size=(96, 96))[0] for i in images])}
            )

    def audited():
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        gm.audit(content, pictures, tmp_path / "out", preprocess="unit", progress=False)

    times = turns(audited, {"plain": bare})
    about = {"model": "demo", "framework": "onnx", "method": "gradcam", "batch": BATCH}
    record_turns("audit", times, **about, size=f"{PICTURES} pictures")
