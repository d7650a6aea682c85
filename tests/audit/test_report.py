"""An audit's folder on a page: its schema read, and which of its pictures are shown."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.audit.report import audit_page
from gradcam_multi.cli import main
from gradcam_multi.errors import AuditError, ImageError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("jinja2", reason="Jinja2 is not installed")

import pyarrow.parquet as pq

from gradcam_multi.audit.result import open_audit
from gradcam_multi.audit.settings import SCHEMA

GRID = (3, 4)
COUNT = 30
BROKEN, WRONG, OUTLIER, CORNER = 4, 7, 9, 11


def tensors(values):
    kind = pa.fixed_shape_tensor(pa.float16(), values.shape[1:])
    flat = pa.array(values.astype(np.float16).ravel())
    storage = pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
    return pa.ExtensionArray.from_storage(kind, storage)


@pytest.fixture
def audit(tmp_path):
    """Three parts of ten pictures, five of them on the disk, in the columns of an audit."""
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for n in range(5, 10):
        pixels = rng.integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{n}.png")
    maps = rng.random((COUNT, 2, *GRID)).astype(np.float16)
    for start in range(0, COUNT, 10):
        numbers = range(start, start + 10)
        failed = [n == BROKEN for n in numbers]
        columns = {
            "index": [*numbers],
            "path": [f"{n}.png" for n in numbers],
            "view": [[0.0, 4.0, 24.0, 28.0]] * 10,
            "label": ["cat"] * 10,
            "top5": [[0, 1]] * 10,
            "top5_scores": [[2.0, 1.0]] * 10,
            "top5_probabilities": [[0.75, 0.25]] * 10,
            "correct": [
                None if bad else n != WRONG for n, bad in zip(numbers, failed, strict=True)
            ],
            "target": [0] * 10,
            "target_name": ["cat"] * 10,
            "score": [2.0] * 10,
            "probability": [0.75] * 10,
            "status": ["ok"] * 10,
            "map": tensors(maps[start : start + 10, 0]),
            "map_scale": [4.0] * 10,
            **{f"{name}_energy": [0.1] * 10 for name in ("top_left", "top_right", "bottom_left")},
            "bottom_right_energy": [0.9 if n == CORNER else 0.1 for n in numbers],
            "border_energy": [0.9] * 10,
            "top_maps": tensors(maps[start : start + 10]),
            "top_maps_scale": [[4.0, 2.0]] * 10,
            "error": ["it is damaged" if bad else None for bad in failed],
        }
        pq.write_table(pa.table(columns), tmp_path / f"part-{start // 10:06}.parquet")
    settings = {
        "model": {"name": "net.onnx"}, "method": "gradcam", "layer": None,
        "labels": ["cat", "dog"], "source": {
            "given": str(tmp_path / "pictures"), "columns": [None] * 3, "folder_labels": False,
            "digest": "of more pictures than there are now",
        },
    }  # fmt: skip
    (tmp_path / "audit.json").write_text(json.dumps({"schema": SCHEMA, "settings": settings}))
    findings = {
        "places": [{"kind": "corner", "class": 0}],
        "outliers": {"images": [{"index": OUTLIER}]},
        "sure_and_wrong": {"images": [{"index": WRONG}, {"index": OUTLIER}]},
    }
    (tmp_path / "summary.json").write_text(json.dumps({"findings": findings}))
    return tmp_path, maps


def test_rows_of_an_audit(audit):
    folder, maps = audit
    page = audit_page(folder)
    rows = {row["title"]: row for row in page._rows}
    assert [*rows] == [f"{n}.png" for n in range(COUNT)]
    assert rows["4.png"]["error"] == "it is damaged"
    assert rows["7.png"]["correct"] is False
    assert rows["7.png"]["findings"] == ["sure and wrong"]
    assert rows["9.png"]["findings"] == ["unlike its class", "sure and wrong"]
    assert rows["11.png"]["findings"] == ["attention in a corner"]
    assert rows["8.png"]["view"] == [0, 0.125, 1, 0.875]
    assert [each["name"] for each in rows["8.png"]["classes"]] == ["cat", "dog"]
    for place, each in enumerate(rows["8.png"]["classes"]):
        row, column = np.unravel_index(maps[8, place].argmax(), GRID)
        peak = [round((row + 0.5) / GRID[0], 4), round((column + 0.5) / GRID[1], 4)]
        assert each["peak"] == peak
    assert "picture" in rows["8.png"]
    assert "picture" not in rows["12.png"]  # no longer there: its map stands alone


def test_of_many_those_worth_seeing(audit):
    folder, _ = audit
    titles = [row["title"] for row in audit_page(folder, 8)._rows]
    assert {"4.png", "7.png", "9.png"} <= set(titles)
    assert len(titles) == len(set(titles)) == 8
    assert [int(title.split(".")[0]) // 10 for title in titles][-1] == 2  # from the end as well
    assert len(audit_page(folder, 2)._rows) == 2


def test_the_command(audit, tmp_path):
    folder, _ = audit
    result = CliRunner().invoke(main, ["report", str(folder)])
    assert result.exit_code == 0, result.output
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "30 of 30 in the audit" in text
    assert "96.6 %" in text  # 28 right of 29 that could be read
    empty = tmp_path / "empty"
    empty.mkdir()
    result = CliRunner().invoke(main, ["report", str(empty)])
    assert result.exit_code == 2
    assert "run gradcam audit first" in result.stderr
    (folder / "part-000001.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(ImageError, match="is damaged"):
        audit_page(folder)


def test_pictures_of_a_table_are_found_from_anywhere(scenes, tmp_path, monkeypatch):
    """Names in a CSV are those from its own folder, and of the list as it was audited."""
    names = sorted(path.name for path in (scenes.folder / "pictures").glob("*.png"))[:3]
    for name in names:
        (tmp_path / name).write_bytes((scenes.folder / "pictures" / name).read_bytes())
    table = tmp_path / "names.csv"
    table.write_text("\n".join(["image", *names]))
    found = gm.audit(scenes.sound, table, tmp_path / "out", preprocess="unit")
    monkeypatch.chdir("/")
    assert all("picture" in row for row in audit_page(found.path)._rows)
    table.write_text("\n".join(["image", *reversed(names)]))
    with pytest.raises(AuditError, match="any more"):
        open_audit(found.path).picture(0)
    assert not any("picture" in row for row in audit_page(found.path)._rows)
