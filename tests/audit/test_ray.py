"""An audit on Ray: the same rows as on this machine alone, whatever happens to a worker."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
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


def test_a_dataset_gives_a_dataset(scenes, local, tmp_path):
    pictures = sorted((scenes.folder / "pictures").iterdir())[:20]
    rows = [
        {
            "image": path.read_bytes(),
            "path": path.name,
            "label": CLASSES[scenes.scenes[number].label],
            "box": [*map(int, scenes.boxes[number])],
            "camera": 7,
        }
        for number, path in enumerate(pictures)
    ]
    rows[3]["image"] = b"no picture"
    dataset = gm.audit(scenes.sound, ray.data.from_items(rows), workers=1, **UNIT)
    found = {row["path"]: row for row in dataset.iter_rows()}
    assert len(found) == 20
    for row in local.table().slice(0, 20).to_pylist():
        one = found[pictures[row["index"]].name]
        assert (one["camera"], one["label_index"]) == (7, row["label_index"])
        if row["index"] == 3:
            assert "no picture that can be read" in one["error"]
            assert not one["map"].any()
            continue
        # Other batches, other roundings.
        assert one["score"] == pytest.approx(row["score"], rel=1e-5)
        assert one["box_energy"] == pytest.approx(row["box_energy"], rel=1e-5)
        assert one["map"].reshape(-1) == pytest.approx(np.array(row["map"]), abs=1e-3)


def test_what_a_dataset_writes_is_read_without_ray(scenes, tmp_path):
    paths = [{"image": str(scenes.folder / name)} for name in scenes.names[:4]]
    dataset = gm.audit(scenes.sound, ray.data.from_items(paths), workers=1, **UNIT)
    dataset.write_parquet(str(tmp_path / "o"))
    code = (
        "import sys, pyarrow.parquet as pq; t = pq.read_table(sys.argv[1]);"
        "assert 'ray' not in sys.modules; print(t['map'].type, t.num_rows)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "o")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "arrow.fixed_shape_tensor" in said
    assert said.endswith(" 4\n")
