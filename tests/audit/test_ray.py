"""An audit on Ray: the same rows as on this machine alone, whatever happens to a worker."""

import os
import signal
import threading
import time

import pytest

ray = pytest.importorskip("ray", reason="Ray is not installed (extra: scale)")
pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
from audit_scenes import COUNT

import gradcam_multi as gm
from gradcam_multi.demo import CLASSES

UNIT = {"preprocess": "unit", "labels": CLASSES, "progress": False, "part": 32, "batch": 8}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One Ray for all tests of this module, with more workers than this machine may have cores."""
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def local(scenes, tmp_path_factory):
    table = scenes.write("damaged.csv", range(COUNT), {40: "absent.png"})
    return gm.audit(scenes.sound, table, tmp_path_factory.mktemp("local"), **UNIT)


def test_rows_equal_those_of_this_machine_alone(scenes, local, tmp_path):
    table = scenes.folder / "damaged.csv"
    found = gm.audit(scenes.sound, table, tmp_path / "o", engine="ray", workers=2, **UNIT)
    assert found.table().equals(local.table())
    assert found.summary == local.summary
    assert found.summary["failed"] == 1
    # Either engine goes on with what the other has made.
    (tmp_path / "o" / "part-000002.parquet").unlink()
    assert gm.audit(scenes.sound, table, tmp_path / "o", **UNIT).table().equals(local.table())


def test_a_killed_worker_costs_no_row_and_makes_none_twice(scenes, tmp_path):
    table = scenes.write("many.csv", [*range(COUNT)] * 8)
    killed = []

    def kill():
        """Kill an actor once the first parts are there."""
        out = tmp_path / "o"
        while len(list(out.glob("part-*"))) < 3:
            time.sleep(0.005)
        killed.extend(_actors())
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = gm.audit(scenes.sound, table, tmp_path / "o", engine="ray", workers=1, **UNIT)
    killer.join(timeout=10)
    assert killed
    rows = found.table(["index"])["index"].to_pylist()
    assert rows == list(range(8 * COUNT))


def _actors():
    """Process ids of the workers that hold a model."""
    import psutil

    children = psutil.Process().children(recursive=True)
    titles = [(child.pid, " ".join(child.cmdline())) for child in children]
    return [pid for pid, title in titles if "ray::" in title and "PartActor" in title]


def test_a_users_error_is_one_line(scenes, tmp_path):
    with pytest.raises(gm.GradcamError) as caught:
        gm.audit(scenes.sound, scenes.table, tmp_path / "o", engine="ray", target=99, **UNIT)
    assert "\n" not in str(caught.value)


def test_a_dataset_gives_a_dataset(scenes, local):
    rows = [
        {"image": path.read_bytes(), "label": CLASSES[scene.label], "box": [*map(int, box)], "id": 7}
        for path, scene, box in zip(
            sorted((scenes.folder / "pictures").iterdir()), scenes.scenes, scenes.boxes, strict=True
        )
    ][:20]  # fmt: skip
    rows[3]["image"] = b"no picture"
    dataset = gm.audit(scenes.sound, ray.data.from_items(rows), workers=1, **UNIT)
    found = {row["label"]: [] for row in rows}
    for row in dataset.iter_rows():
        assert row["id"] == 7
        found[row["label"]].append((row["score"], row["box_energy"], row["error"]))
    table = local.table().slice(0, 20).to_pylist()
    errors = [each[2] for rows in found.values() for each in rows if each[2] is not None]
    assert len(errors) == 1
    assert "no picture that can be read" in errors[0]
    for row in table:
        if row["index"] != 3:
            scores = [score for score, *_ in found[row["label"]] if score is not None]
            # Other batches, other roundings.
            assert min(abs(score - row["score"]) for score in scores) < 1e-4
