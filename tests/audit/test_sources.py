"""What an audit reads, in every form, and what is wrong with it."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
import pyarrow.parquet as pq

from gradcam_multi.audit.items import read_picture
from gradcam_multi.audit.listed import Columns
from gradcam_multi.audit.sources import open_source
from gradcam_multi.errors import AuditError, ImageError


def png(value):
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def values(source):
    """The grey value by which a picture is known here, and what the source says of it."""
    items = source.items(0, len(source))
    return [(int(read_picture(item)[0, 0, 0]), item.label, item.box) for item in items]


@pytest.fixture
def folder(tmp_path):
    for name, value in {"b/10.png": 10, "b/2.png": 2, "a/x.png": 7, "top.png": 1}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(value))
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    (tmp_path / "b" / ".hidden.png").write_bytes(png(99))
    return tmp_path


def test_a_folder_with_its_subfolders_in_natural_order(folder):
    source = open_source(folder, folder_labels=True)
    assert values(source) == [(1, None, None), (7, "a", None), (2, "b", None), (10, "b", None)]
    assert [item.path for item in source.items(1, 3)] == ["a/x.png", "b/2.png"]
    assert {item.label for item in open_source(folder).items(0, 4)} == {None}
    assert source.labels() == {"a", "b"}


def test_a_pattern_one_picture_and_a_list(folder):
    assert [v for v, *_ in values(open_source(str(folder / "b" / "*.png")))] == [2, 10]
    assert [v for v, *_ in values(open_source(folder / "top.png"))] == [1]
    paths = [folder / "top.png", folder / "a" / "x.png"]
    assert [v for v, *_ in values(open_source(paths))] == [1, 7]


@pytest.mark.parametrize(
    "text",
    [
        "image,label,left,top,right,bottom\na/x.png,cat,1,2,3,4\nb/2.png,,,,,\n",
        "path,class,xmin,ymin,xmax,ymax\na/x.png,cat,1,2,3,4\nb/2.png,,,,,\n",
        'file,label,box\na/x.png,cat,"1, 2, 3, 4"\nb/2.png,,\n',
        'file,target,bbox\na/x.png,cat,"[1,2,3,4]"\nb/2.png,,\n',
    ],
)
def test_a_csv_names_pictures_beside_itself(folder, text):
    (folder / "table.csv").write_text(text)
    source = open_source(folder / "table.csv")
    assert values(source) == [(7, "cat", (1, 2, 3, 4)), (2, None, None)]
    assert [item.path for item in source.items(0, 2)] == ["a/x.png", "b/2.png"]


def test_columns_may_be_named_and_tabs_part_a_tsv(folder):
    (folder / "table.tsv").write_text("where\twhat\tat\na/x.png\t3\t1 2 3 4\n")
    source = open_source(folder / "table.tsv", columns=Columns("where", "what", "at"))
    assert values(source) == [(7, "3", (1, 2, 3, 4))]


@pytest.mark.parametrize("kind", ["path", "bytes", "struct"])
def test_a_parquet_holds_paths_or_pictures(folder, kind):
    pictures = {
        "path": ["a/x.png", "b/2.png", "b/10.png"],
        "bytes": [png(7), png(2), png(10)],
        "struct": [
            {"bytes": png(7), "path": "seven.png"}, {"bytes": png(2), "path": None},
            {"bytes": None, "path": "b/10.png"},
        ],
    }[kind]  # fmt: skip
    table = pa.table(
        {"image": pictures, "label": [1, None, 0], "box": [[1, 2, 3, 4], None, [0, 0, 1, 1]]}
    )
    pq.write_table(table, folder / "table.parquet", row_group_size=2)
    source = open_source(folder / "table.parquet")
    boxes = [(1, 2, 3, 4), None, (0, 0, 1, 1)]
    assert values(source) == list(zip([7, 2, 10], ["1", None, "0"], boxes, strict=True))
    # Across row groups, and again from the middle.
    assert [item.label for item in source.items(1, 3)] == [None, "0"]
    assert source.labels() == {"0", "1"}


def test_a_webdataset_tar_is_read_where_it_lies(tmp_path):
    members = [
        ("d/0001.jpg.txt", b"not a picture"), ("d/0001.png", png(1)), ("d/0001.cls", b"5\n"),
        ("d/0002.cls", b"dog"), ("d/0002.seg.png", png(99)), ("d/0002.png", png(2)),
        ("d/0002.json", json.dumps({"box": [1, 2, 3, 4]}).encode()),
        ("d/0003.json", json.dumps({"label": 8}).encode()), ("d/0003.png", png(3)),
        ("e/0003.png", png(4)),
    ]  # fmt: skip
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    source = open_source(tmp_path / "shard.tar")
    assert values(source) == [
        (1, "5", None), (2, "dog", (1, 2, 3, 4)), (3, "8", None), (4, None, None),
    ]  # fmt: skip
    assert source.items(1, 2)[0].path == "shard.tar::d/0002.png"
    (tmp_path / "other.tar").write_bytes((tmp_path / "shard.tar").read_bytes())
    assert len(open_source(str(tmp_path / "*.tar"))) == 8
    (tmp_path / "cut.tar").write_bytes((tmp_path / "shard.tar").read_bytes()[:1100])
    with pytest.raises(AuditError, match="cut short, compressed or no tar"):
        open_source(tmp_path / "cut.tar")
    with tarfile.open(tmp_path / "small.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "shard.tar")
    with pytest.raises(AuditError, match="compressed"):
        open_source(tmp_path / "small.tar.gz")


def test_the_digest_tells_lists_apart_and_nothing_else(folder):
    head = "image,label,box\n"
    tables = {
        "one": f"{head}a/x.png,cat,\n", "same": f"{head}a/x.png,cat,\n",
        "label": f"{head}a/x.png,dog,\n", "box": f"{head}a/x.png,cat,1 2 3 4\n",
        "more": f"{head}a/x.png,cat,\nb/2.png,cat,\n",
    }  # fmt: skip
    digests = {}
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
        digests[name] = open_source(folder / f"{name}.csv").digest()
    assert digests["one"] == digests["same"]
    assert len(set(digests.values())) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("photo,label\na/x.png,cat\n", "no column of pictures; it has photo, label"),
        ("image,left,top,right,bottom\na/x.png,1,2,1,4\n", r"row 2 has the box .* no area"),
        ("image,box\na/x.png,1 2 3\n", "left, top, right, bottom"),
        ("image,label\n", "no picture in"),
        ("", "no column of pictures; it has none"),
    ],
)
def test_a_table_that_is_wrong_is_named(folder, text, said):
    (folder / "table.csv").write_text(text)
    with pytest.raises((AuditError, ImageError), match=said) as caught:
        open_source(folder / "table.csv")
    assert "\n" not in str(caught.value)


def test_sources_that_are_none_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "table.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ImageError, match=r"no picture in .*empty"):
        open_source(tmp_path / "empty")
    with pytest.raises(ImageError, match="no such file or folder"):
        open_source(tmp_path / "absent")
    with pytest.raises(ImageError, match="no file matches"):
        open_source(str(tmp_path / "*.png"))
    with pytest.raises(AuditError, match="give a Parquet file"):
        open_source(tmp_path / "table.parquet")
    (tmp_path / "t.csv").write_text("image,label\n1.png,2\n")
    with pytest.raises(AuditError, match=r"no column 'lable' for the label; .*'label'"):
        open_source(tmp_path / "t.csv", columns=Columns(label="lable"))


def test_what_cannot_be_read_is_said_of_the_picture(folder):
    (folder / "table.csv").write_text("image\nabsent.png\ntop.png\n")
    absent, there = open_source(folder / "table.csv").items(0, 2)
    with pytest.raises(ImageError, match=r"absent.png': the file does not exist"):
        read_picture(absent)
    assert read_picture(there).shape == (4, 6, 3)
