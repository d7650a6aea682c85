"""An audit on this machine: its rows against single explanations, and what may go wrong."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
import pyarrow.parquet as pq
from audit_scenes import COUNT

import gradcam_multi as gm
from gradcam_multi.audit.figures import figures
from gradcam_multi.audit.result import maps_of, open_audit
from gradcam_multi.demo import CLASSES

UNIT = {"preprocess": "unit", "labels": CLASSES, "progress": False}
SMALL = {**UNIT, "part": 16, "batch": 8}


def rows(folder):
    return open_audit(folder).table().to_pylist()


def assert_same_map(kept, map_):
    # float16 keeps 11 bits of a value that is a share of the largest; where float32 sums over 64
    # channels cancel, another batch leaves another rounding of their addends.
    np.testing.assert_allclose(kept, map_, rtol=2**-10, atol=2e-6 * map_.max())


@pytest.fixture(scope="module")
def done(scenes, tmp_path_factory):
    """The sound network's audit of all scenes."""
    return gm.audit(scenes.sound, scenes.table, tmp_path_factory.mktemp("done"), **SMALL)


def copy(audit, folder):
    shutil.copytree(audit.path, folder)
    return folder


def test_rows_are_what_single_explanations_say(scenes, done):
    table = done.table()
    maps = maps_of(table)
    explainer = gm.Explainer(scenes.sound, labels=CLASSES)
    unit = gm.Preprocess.named("unit")
    for index in (0, 7, 8, COUNT - 1):
        row = table.slice(index, 1).to_pylist()[0]
        image = gm.load_image(scenes.folder / scenes.names[index])
        one = explainer(unit.apply(image, size=(96, 96))[0][None])
        record = one.records()[0]
        label = scenes.scenes[index].label
        assert row["index"] == index
        assert row["path"] == scenes.names[index]
        assert (row["label"], row["label_index"]) == (CLASSES[label], label)
        assert row["box"] == list(scenes.boxes[index])
        assert (row["height"], row["width"], row["view"]) == (96, 96, [0, 0, 96, 96])
        assert row["target"] == record["class"] == row["top5"][0]
        assert row["correct"] == (label == row["target"])
        assert row["target_name"] == record["label"]
        assert row["layer"] == record["layer"] == "relu5"
        assert row["method"] == "gradcam"
        assert row["status"] == record["status"]
        assert row["error"] is None
        # A batch of 8 and one of 1 are other sums of the same float32 numbers.
        assert row["score"] == pytest.approx(record["score"], rel=1e-5)
        assert row["probability"] == pytest.approx(record["probability"], rel=1e-5)
        logits = np.sort(one.logits[0])[::-1]
        assert row["top5_scores"] == pytest.approx(logits[:5], rel=1e-4, abs=1e-5)
        assert_same_map(maps[index], one.cam[0])
        said = figures(one.cam, (96, 96))
        assert row["entropy"] == pytest.approx(said.entropy[0], rel=1e-4)
        assert row["border_energy"] == pytest.approx(said.border[0], rel=1e-4)
        assert row["bottom_left_energy"] == pytest.approx(said.corners["bottom_left"][0], rel=1e-3)
        assert [row["peak_row"], row["peak_column"]] == pytest.approx(96 * said.peaks[0])
        left, top, right, bottom = scenes.boxes[index]
        inside = left < row["peak_column"] < right and top < row["peak_row"] < bottom
        assert row["peak_in_box"] == inside


def test_boxes_and_peaks_are_in_pixels_of_the_picture(scenes, tmp_path):
    """A crop of a larger picture: what the model sees is a part of it."""
    from PIL import Image

    big = Image.new("RGB", (300, 120), (90, 90, 90))
    big.paste(Image.fromarray(scenes.scenes[2].image), (100, 10))
    big.save(tmp_path / "big.png")
    (tmp_path / "t.csv").write_text("image,box\nbig.png,100 10 196 106\n")
    crop = gm.Preprocess(fit="crop", crop_ratio=1.0)
    audit = gm.audit(scenes.sound, tmp_path / "t.csv", tmp_path / "o", preprocess=crop)
    (row,) = audit.table().to_pylist()
    image = gm.load_image(tmp_path / "big.png")
    inputs, geometry = crop.apply(image, size=(96, 96))
    one = gm.explain(scenes.sound, inputs[None])
    heat = one.heatmaps_on((120, 300), geometry)[0]
    assert row["view"] == list(geometry.box) == [0, 90, 120, 210]
    peak = np.unravel_index(np.nanargmax(heat), heat.shape)
    # The heatmap's pixels lie at most half a pixel from a cell's centre.
    assert [row["peak_row"], row["peak_column"]] == pytest.approx(np.add(peak, 0.5), abs=0.51)
    cells = one.cam[0].repeat(8, 0).repeat(8, 1)
    assert row["peak_row"] == 1.25 * (np.argwhere(cells == cells.max())[:, 0].mean() + 0.5)


def test_top_keeps_a_map_for_each_of_the_highest_classes(scenes, tmp_path):
    table = scenes.write("three.csv", [0, 1, 2], {1: "absent.png"})
    found = gm.audit(scenes.shortcut, table, tmp_path / "o", top=3, **SMALL).table()
    assert found.schema.field("top_maps").type.shape == [3, 12, 12]
    maps = maps_of(found, "top_maps")
    assert np.isnan(maps[1]).all()
    unit = gm.Preprocess.named("unit").apply
    image = gm.load_image(scenes.folder / scenes.names[2])
    explainer = gm.Explainer(scenes.shortcut)
    ranked = explainer.several(unit(image, size=(96, 96))[0][None], map(gm.TopClass, range(3)))
    for rank, one in enumerate(ranked):
        assert found["top5"][2].as_py()[rank] == one.classes[0]
        assert_same_map(maps[2, rank], one.cam[0])
    assert maps[2, 0] == pytest.approx(maps_of(found)[2])


def test_maps_are_arrows_own_tensors_and_small(done):
    part = done.parts[0]
    found = pq.read_table(part)
    assert found["map"].type == pa.fixed_shape_tensor(pa.float16(), (12, 12))
    encodings = (
        pq.read_metadata(part)
        .row_group(0)
        .column(
            next(i for i in range(60) if "map." in pq.read_metadata(part).schema.column(i).path)
        )
    )
    assert "BYTE_STREAM_SPLIT" in encodings.encodings
    assert encodings.compression == "ZSTD"
    assert encodings.total_compressed_size < 16 * 12 * 12 * 2  # what float16 would take as it is


def test_what_is_on_disk_is_not_done_again(scenes, done, tmp_path, monkeypatch):
    folder = copy(done, tmp_path / "o")
    whole = rows(folder)
    for name in ("part-000003.parquet", "part-000009.parquet", "summary.json"):
        (folder / name).unlink()
    (folder / "part-000005.parquet").write_bytes(b"PAR1 damaged")
    (folder / ".writing-123-part-000003.parquet").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    read = []
    from gradcam_multi.audit import examiner

    monkeypatch.setattr(
        examiner,
        "read_picture",
        lambda item, own=examiner.read_picture: read.append(item) or own(item),
    )
    gm.audit(scenes.sound, scenes.table, folder, **SMALL)
    assert len(read) == 3 * 16
    assert rows(folder) == whole
    assert not list(folder.glob(".writing-*"))
    for path, modified in kept.items():
        if path.name != "part-000005.parquet":
            assert path.stat().st_mtime_ns == modified


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "layercam"}, 'method ("gradcam", now "layercam")'),
        ({"layer": "relu4"}, "layer (null, now"),
        ({"part": 32}, "part (16, now 32)"),
        ({"preprocess": "tf"}, "preprocess ("),
        ({"target": 3}, 'target (null, now "3")'),
        ({"model": "shortcut"}, "the model ("),
        ({"source": "less"}, "the source (160 pictures, now 3)"),
    ],
    ids=str,
)
def test_other_settings_are_refused_by_name(scenes, done, change, said):
    asked = {**SMALL, **change}
    model = getattr(scenes, asked.pop("model", "sound"))
    table = scenes.write("less.csv", range(3)) if asked.pop("source", None) else scenes.table
    with pytest.raises(gm.AuditError) as caught:
        gm.audit(model, table, done.path, **asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "to resume it, or another --output" in str(caught.value)


def test_files_that_fail_are_rows_with_their_error(scenes, tmp_path):
    numbers = [*range(COUNT)] * 2
    (scenes.folder / "cut.png").write_bytes((scenes.folder / scenes.names[0]).read_bytes()[:2000])
    (scenes.folder / "empty.png").write_bytes(b"")
    (scenes.folder / "text.png").write_text("no picture")
    changes = {5: "cut.png", 100: "empty.png", 101: "text.png", 310: "absent.png"}
    table = scenes.write("damaged.csv", numbers, changes)
    audit = gm.audit(scenes.sound, table, tmp_path / "o", **SMALL)
    found = audit.table().to_pylist()
    assert [row["index"] for row in found] == list(range(len(numbers)))
    errors = {row["index"]: row["error"] for row in found if row["error"] is not None}
    assert errors.keys() == changes.keys()
    assert "damaged or cut short" in errors[5]
    assert "0 bytes" in errors[100]
    assert "no picture that can be read" in errors[101]
    assert "absent.png': the file does not exist" in errors[310]
    assert found[5]["label"] == CLASSES[scenes.scenes[5].label]
    for name in ("status", "map", "score", "entropy", "top5", "peak_row", "height"):
        assert found[5][name] is None
    # The others of its batch are what they are without it.
    whole = gm.audit(scenes.sound, scenes.table, tmp_path / "whole", **SMALL).table().to_pylist()
    assert found[6]["score"] == pytest.approx(whole[6]["score"], rel=1e-5)
    assert audit.summary["failed"] == 4
    assert [each["path"] for each in audit.summary["failures"]] == [*changes.values()]


def test_failed_pictures_are_tried_again_when_asked(scenes, tmp_path):
    changes = {20: "late.png"}
    table = scenes.write("late.csv", range(40), changes)
    asked = (scenes.sound, table, tmp_path / "o")
    assert gm.audit(*asked, **SMALL).summary["failed"] == 1
    shutil.copy(scenes.folder / scenes.names[20], scenes.folder / "late.png")
    assert gm.audit(*asked, **SMALL).summary["failed"] == 1
    assert gm.audit(*asked, retry_failed=True, **SMALL).summary["failed"] == 0


def test_labels_that_are_no_class_are_counted_and_all_wrong_ones_refused(scenes, tmp_path):
    (scenes.folder / "labels.csv").write_text(
        "image,label\npictures/000.png,star\npictures/001.png,unicorn\npictures/002.png,99\n"
    )
    audit = gm.audit(scenes.sound, scenes.folder / "labels.csv", tmp_path / "o", **UNIT)
    assert audit.summary["unknown_labels"] == {"unicorn": 1, "99": 1}
    assert audit.summary["labelled"] == 1
    (scenes.folder / "none.csv").write_text("image,label\npictures/000.png,unicorn\n")
    with pytest.raises(gm.AuditError, match="neither indices of the model's 8 classes nor among"):
        gm.audit(scenes.sound, scenes.folder / "none.csv", tmp_path / "p", **UNIT)
    with pytest.raises(gm.AuditError, match="of which none were given: give labels"):
        gm.audit(scenes.sound, scenes.table, tmp_path / "p", preprocess="unit")


def test_a_full_disk_loses_nothing(scenes, tmp_path, monkeypatch):
    own = os.fsync
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        own(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(gm.AuditError, match="No space left on device") as caught:
        gm.audit(scenes.sound, scenes.table, tmp_path / "o", **SMALL)
    assert "run the same command again" in str(caught.value)
    written = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert not [name for name in written if name.startswith(".writing")]
    assert len(written) > 2
    monkeypatch.undo()
    gm.audit(scenes.sound, scenes.table, tmp_path / "o", **SMALL)
    assert [row["index"] for row in rows(tmp_path / "o")] == list(range(COUNT))


def test_an_output_that_cannot_be_written_is_named(scenes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(gm.AuditError, match=r"cannot write .*file/o"):
        gm.audit(scenes.sound, scenes.table, tmp_path / "file" / "o", **SMALL)
    (tmp_path / "locked").mkdir(mode=0o500)
    if os.access(tmp_path / "locked", os.W_OK):  # root may write anywhere: as the system says it
        from gradcam_multi.audit import folder

        def refused(*_, **__):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(folder, "open", refused, raising=False)
    with pytest.raises(gm.AuditError, match=r"Read-only file system|Permission denied"):
        gm.audit(scenes.sound, scenes.table, tmp_path / "locked", **SMALL)


def test_two_audits_do_not_write_to_one_folder(scenes, done):
    from gradcam_multi.audit.folder import Folder

    record = json.loads((done.path / "audit.json").read_text())["settings"]
    with Folder(done.path).begun(record), pytest.raises(gm.AuditError, match="another audit is"):
        gm.audit(scenes.sound, scenes.table, done.path, **SMALL)


def test_a_folder_of_other_parts_is_left_alone(scenes, done, tmp_path):
    shutil.copy(done.parts[0], tmp_path / "part-000000.parquet")
    with pytest.raises(gm.AuditError, match=r"holds parts and no audit\.json"):
        gm.audit(scenes.sound, scenes.table, tmp_path, **SMALL)
    with pytest.raises(gm.AuditError, match="no audit in"):
        open_audit(tmp_path / "nowhere")


def test_what_is_asked_wrongly_is_said_before_anything_is_written(scenes, tmp_path):
    out = tmp_path / "o"
    for asked, said in [
        ({"engine": "dask"}, "engine 'dask'"), ({"part": 0}, "part 0"), ({"top": -1}, "top -1"),
        ({"top": 9}, "rank 8"), ({"target": 8}, "class 8"), ({"method": "gradcan"}, "gradcan"),
        ({"layer": "relu9"}, "relu9"),
    ]:  # fmt: skip
        with pytest.raises(gm.GradcamError, match=said):
            gm.audit(scenes.sound, scenes.table, out, **{**UNIT, **asked})
    assert not out.exists()


def test_pyarrow_is_asked_for_where_it_is_absent(scenes, tmp_path, monkeypatch):
    from gradcam_multi.audit import extras

    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(gm.MissingExtraError, match=r'pip install "gradcam-multi\[audit\]"'):
        gm.audit(scenes.sound, scenes.table, tmp_path / "o")


def test_a_picture_of_an_audit_is_read_again(scenes, done):
    assert (done.picture(9) == gm.load_image(scenes.folder / scenes.names[9])).all()


KILLED = """
import sys, gradcam_multi as gm
from gradcam_multi.demo import CLASSES
gm.audit(sys.argv[1], sys.argv[2], sys.argv[3], preprocess="unit", labels=CLASSES, part=16, batch=8)
"""


def test_killed_at_random_and_resumed_every_picture_is_there_once(scenes, tmp_path):
    table = scenes.write("many.csv", [*range(COUNT)] * 4)
    command = [sys.executable, "-c", KILLED, str(scenes.sound), str(table), str(tmp_path / "o")]
    rng = np.random.default_rng(0)
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before = len(list((tmp_path / "o").glob("part-*")))
        while len(list((tmp_path / "o").glob("part-*"))) < before + 3 and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        for part in (tmp_path / "o").glob("part-*"):
            assert pq.read_table(part).num_rows == 16
    assert kills == 3
    subprocess.run(command, check=True)
    killed = rows(tmp_path / "o")
    assert [row["index"] for row in killed] == list(range(4 * COUNT))
    whole = gm.audit(scenes.sound, table, tmp_path / "whole", **SMALL)
    assert killed == rows(whole.path)


MEMORY = """
import resource, sys, gradcam_multi as gm
from gradcam_multi.audit import examiner
seen = []
own = examiner.Examiner.examine
def examine(self, decoded, first):
    table = own(self, decoded, first)
    with open("/proc/self/statm") as file:
        seen.append(int(file.read().split()[1]) * resource.getpagesize())
    return table
examiner.Examiner.examine = examine
gm.audit(sys.argv[1], sys.argv[2], sys.argv[3], preprocess="unit", part=64, batch=8)
print(seen[len(seen) // 4], seen[-1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc to read memory from")
def test_memory_is_flat(scenes, tmp_path):
    (scenes.folder / "long.csv").write_text("image\n" + "\n".join(scenes.names * 8))
    command = [
        sys.executable,
        "-c",
        MEMORY,
        scenes.sound,
        scenes.folder / "long.csv",
        tmp_path / "o",
    ]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    early, late = map(int, found.stdout.split())
    # What a run of 10,000 is held to; a picture's array alone would add 960 * 110 kB.
    assert late < 1.05 * early


def yes_or_no(folder, network="sound"):
    """The network's class 2 against class 3 as one logit, as an ONNX file."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(folder / f"{network}.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.startswith("logits."):
            both = numpy_helper.to_array(tensor)[2:4]
            tensor.CopyFrom(numpy_helper.from_array(both[:1] - both[1:], tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, folder / "one.onnx")
    return folder / "one.onnx"


def test_a_model_of_one_unit_says_yes_or_no(scenes, tmp_path):
    model = yes_or_no(scenes.folder)
    numbers = [n for n, scene in enumerate(scenes.scenes) if scene.label in (2, 3)]
    table = scenes.write("two.csv", numbers)
    asked = {**UNIT, "labels": [CLASSES[3], CLASSES[2]]}
    audit = gm.audit(model, table, tmp_path / "o", **asked)
    for row in audit.table().to_pylist():
        z = row["score"]
        yes = z > 0
        assert row["label_index"] == (row["label"] == CLASSES[2])
        assert row["top5"] == [int(yes), int(not yes)]
        assert row["top5_scores"] == pytest.approx([abs(z), -abs(z)], rel=1e-6)
        assert row["top5_probabilities"][0] == pytest.approx(1 / (1 + np.exp(-abs(z))), rel=1e-6)
        assert row["probability"] == pytest.approx(1 / (1 + np.exp(-z)), rel=1e-6)
        assert (row["target"], row["target_name"]) == (1, CLASSES[2])
        assert row["correct"] == (row["label_index"] == yes)
    assert audit.summary["accuracy"] > 0.9
    # Without two names it is a value, which is right or wrong of no label.
    value = gm.audit(model, table, tmp_path / "v", preprocess="unit", progress=False)
    assert value.summary["accuracy"] is None
    assert value.summary["unknown_labels"] == {}


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_are_the_same_however_the_work_is_shared(scenes, done, tmp_path, workers, monkeypatch):
    """Threads that explain too, one thread that explains beside those that decode, or one alone."""
    from gradcam_multi_onnx.model import OnnxModel

    asked = {**SMALL, "workers": workers}
    found = [gm.audit(scenes.sound, scenes.table, tmp_path / "o", **asked)]
    monkeypatch.setattr(OnnxModel, "side_by_side", lambda self, threads: None)
    found.append(gm.audit(scenes.sound, scenes.table, tmp_path / "p", **asked))
    for other in found:
        for one, two in zip(rows(other.path), rows(done.path), strict=True):
            assert one["path"] == two["path"]
            assert one["target"] == two["target"]
            # Threads cut a convolution's sums at other places: the last bits of a score differ.
            assert one["score"] == pytest.approx(two["score"], rel=1e-5)
        for one, two in zip(maps_of(other.table()), maps_of(done.table()), strict=True):
            assert_same_map(one, two)


def test_the_interpreter_is_left_as_found(scenes, tmp_path, monkeypatch):
    from gradcam_multi.audit.examiner import Examiner

    before = sys.getswitchinterval()
    gm.audit(scenes.sound, scenes.names_of(3), tmp_path / "o", **SMALL)
    assert sys.getswitchinterval() == before

    def broken(*_):
        raise RuntimeError("broken")

    monkeypatch.setattr(Examiner, "examine", broken)
    with pytest.raises(RuntimeError, match="broken"):
        gm.audit(scenes.sound, scenes.names_of(3), tmp_path / "p", **SMALL)
    assert sys.getswitchinterval() == before
