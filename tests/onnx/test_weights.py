"""Weights that stay in the model's file, are lent to sessions, or reach them by another file."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from google.protobuf.message import DecodeError
from gradcam_multi_onnx import files, plugin, session
from gradcam_multi_onnx.external import load
from gradcam_multi_onnx.graph import HUGE
from gradcam_multi_onnx.outline import appended, outline
from gradcam_multi_onnx.source import open_source
from onnx import TensorProto, helper, numpy_helper

from gradcam_multi.errors import ModelFileError

node = helper.make_node
RANDOM = np.random.default_rng(0)
CONV = RANDOM.normal(size=(8, 3, 3, 3)).astype(np.float32)
DENSE = RANDOM.normal(size=(2048, HUGE // 2048 + 8)).astype(np.float32) / 45
LAST = RANDOM.normal(size=(DENSE.shape[1], 5)).astype(np.float32) / 64
X = RANDOM.normal(size=(2, 3, 16, 16)).astype(np.float32)
COTANGENT = RANDOM.normal(size=(2, 5)).astype(np.float32)

NORM = {
    "gain": RANDOM.uniform(0.5, 2, DENSE.shape[1]), "shift": RANDOM.normal(size=DENSE.shape[1]),
    "mean": RANDOM.normal(size=DENSE.shape[1]), "var": RANDOM.uniform(0.5, 2, DENSE.shape[1]),
}  # fmt: skip
HEADS = {
    "Gemm": [node("Gemm", ["f", "d"], ["h"])],
    "transposed": [node("Gemm", ["f", "dt"], ["h"], transB=1)],
    "MatMul": [node("MatMul", ["f", "d"], ["h"])],
    "normalised": [
        node("MatMul", ["f", "d"], ["m"]),
        node("BatchNormalization", ["m", *NORM], ["h"], epsilon=0.0),
    ],
}


def model(head: str = "Gemm") -> Any:
    """A convolution and two dense layers, the first of 8 million weights."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["a"]),
        node("Flatten", ["a"], ["f"]), *HEADS[head], node("Relu", ["h"], ["r"]),
        node("Gemm", ["r", "e"], ["y"]),
    ]  # fmt: skip
    arrays = {"w": CONV, "d": DENSE, "dt": DENSE.T.copy(), "e": LAST, **NORM}
    read = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        nodes, "weights",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 16, 16))],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in arrays.items()
         if n in read],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(folder: Path, head: str = "Gemm") -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model(head).SerializeToString())
    return path


def gradient(opened: Any) -> np.ndarray:
    with opened.trace(X, ["c"]) as trace:
        np.testing.assert_array_equal(trace.outputs["y"].shape, (2, 5))
        (found,) = trace.vjp({"y": COTANGENT})
    return found


def expected(head: str) -> np.ndarray:
    """The gradient at the convolution by hand, in float64."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(X.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3)
    )
    c = np.einsum("ncijhw,ochw->noij", windows, CONV.astype(np.float64))
    m = np.maximum(c, 0).reshape(2, -1) @ DENSE.astype(np.float64)
    scale: Any = 1.0
    if head == "normalised":
        gain, shift, mean, var = (a.astype(np.float32).astype(np.float64) for a in NORM.values())
        scale = gain / np.sqrt(var)
        m = (m - mean) * scale + shift
    back = (COTANGENT @ LAST.T.astype(np.float64)) * (m > 0) * scale
    return ((back @ DENSE.T.astype(np.float64)).reshape(c.shape)) * (c > 0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_a_huge_weight_is_shared(head: str, kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, head)
    opened: Any = plugin.gradcam_multi_open(given(path, kind))
    # Of the maximum: sums of 4000 products in float32, 4000 * 6e-8, and few of them cancel.
    right = expected(head)
    np.testing.assert_allclose(gradient(opened), right, atol=2e-4 * np.abs(right).max())
    (plan,) = opened._plans.values()
    (name,) = plan.lent
    assert name == ("dt" if head == "transposed" else "d")
    backward = plan.backward["y"].gradient
    assert backward.lent[name] is plan.lent[name]
    assert name not in {tensor.name for tensor in backward.model.graph.initializer}


def given(path: Path, kind: str) -> Any:
    return path if kind == "path" else path.read_bytes()


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_the_same_without_room_for_a_file(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    before = gradient(plugin.gradcam_multi_open(given(path, kind)))

    def full(**_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "TemporaryDirectory", full)
    np.testing.assert_array_equal(gradient(plugin.gradcam_multi_open(given(path, kind))), before)


def scratch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[int]]:
    """Have temporary files written to an empty folder, and count them."""
    (folder / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "scratch"))
    used: list[int] = []
    real = files.TemporaryDirectory
    monkeypatch.setattr(files, "TemporaryDirectory", lambda **k: used.append(1) or real(**k))
    return folder / "scratch", used


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_nothing_is_left_behind(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    folder, used = scratch(tmp_path, monkeypatch)
    path = saved(tmp_path / "own")
    gradient(plugin.gradcam_multi_open(given(path, kind)))
    assert used or (kind == "path" and sys.platform == "linux")  # read from the model's own file
    assert list(folder.iterdir()) == []
    assert list((tmp_path / "own").iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a copy is mapped always")
def test_a_weight_that_is_not_mapped_may_be_a_small_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As VGG's classifier, behind layers that are lent: else the file would be read and parsed."""
    (tmp_path / "own").mkdir()
    path, (_, used) = saved(tmp_path / "own"), scratch(tmp_path, monkeypatch)
    monkeypatch.setattr(session, "_LIGHT", 0)
    gradient(plugin.gradcam_multi_open(path))
    assert not used
    monkeypatch.setattr(session, "_PART", 1 << 20)
    gradient(plugin.gradcam_multi_open(path))
    assert used


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a copy is mapped always")
def test_the_models_own_file_does_not_stay_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that may be overridden is never packed, and is read from where it is."""
    proto = model()
    proto.graph.input.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, DENSE.shape))
    proto.graph.input.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, LAST.shape))
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    source = open_source(path)
    alone = session._referring(source, b"", path, {})
    assert alone is not None
    assert files.maps(path)
    del alone
    assert not files.maps(path)
    folder, used = scratch(tmp_path, monkeypatch)
    forward = session.Forward(source, ["y"], ["a"])
    before = forward({"x": X})
    assert used
    assert list(folder.iterdir()) == []
    with open(path, "r+b") as file:
        file.truncate(100)
    for name, array in forward({"x": X}).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("head", HEADS)
def test_weights_left_in_the_file_change_no_number(head: str, tmp_path: Path) -> None:
    path = saved(tmp_path, head)
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (right,) = plain.run(["y"], {"x": X})
    for kind in ("path", "bytes"):
        forward = session.Forward(open_source(given(path, kind)), ["y"], ["a"])
        # The same kernels in the same order; fusions may differ by what else is an output.
        np.testing.assert_allclose(forward({"x": X})["y"], right, rtol=0, atol=1e-5)


def test_an_error_names_the_model_and_not_the_copy(tmp_path: Path) -> None:
    proto = model()
    proto.opset_import.add(domain="com.example", version=1)
    proto.graph.node.add(op_type="Foreign", domain="com.example", input=["x"], output=["z"])
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    opened = plugin.gradcam_multi_open(path)
    with pytest.raises(ModelFileError, match="ONNX Runtime refuses the model") as caught:
        gradient(opened)
    assert "gradcam_multi_" not in str(caught.value)


def test_a_file_that_is_overwritten_does_not_reach_open_sessions(tmp_path: Path) -> None:
    path = saved(tmp_path)
    opened = plugin.gradcam_multi_open(path)
    before = gradient(opened)
    with open(path, "r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(gradient(opened), before)
    with pytest.raises(ModelFileError, match="has changed since it was opened"):
        with opened.trace(X, ["a"]):
            pass


def whole(proto: Any) -> dict[str, bytes]:
    return {tensor.name: tensor.raw_data for tensor in proto.graph.initializer}


@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_an_outline_finds_what_it_leaves_out(kind: str, tmp_path: Path) -> None:
    path = saved(tmp_path, "normalised")
    source = open_source(given(path, kind))
    complete = source.parse()
    slim, source = source.outline()
    assert set(source.places) == {"d", "e", *NORM}
    assert slim.ByteSize() < 10_000  # the convolution's 864 bytes and the nodes
    assert whole(complete) == {t.name: load(source, t).raw_data for t in slim.graph.initializer}
    for model in (complete, slim):
        del model.graph.initializer[:]
    assert slim == complete


def outlined(data: bytes, **more: Any) -> tuple[Any, Any]:
    content, places = outline(io.BytesIO(data), len(data), **more)
    return onnx.ModelProto.FromString(content), places


def test_an_outline_leaves_alone_what_it_does_not_understand() -> None:
    proto = onnx.ModelProto()
    listed = proto.graph.initializer.add(name="listed", data_type=TensorProto.FLOAT, dims=[5000])
    listed.float_data.extend(range(5000))
    short = proto.graph.initializer.add(name="short", data_type=TensorProto.FLOAT, dims=[6000])
    short.raw_data = bytes(20_000)
    text = proto.graph.initializer.add(name="text", data_type=TensorProto.STRING, dims=[1])
    text.string_data.append(bytes(20_000))
    assert outlined(proto.SerializeToString()) == (proto, {})


def test_an_outline_merges_as_protobuf_does() -> None:
    """A message may hold its graph in several parts, and initialisers may come in each."""
    data = model().SerializeToString()
    more = np.arange(9000, dtype=np.float32)
    head = appended(TensorProto(name="more", data_type=1, dims=more.shape), more.nbytes)
    data += head + more.tobytes()
    complete = onnx.ModelProto.FromString(data)
    assert whole(complete)["more"] == more.tobytes()
    slim, places = outlined(data)
    assert [t.name for t in slim.graph.initializer] == [t.name for t in complete.graph.initializer]
    start, length = places["more"]
    assert data[start : start + length] == more.tobytes()


def test_damaged_bytes_are_left_to_protobuf() -> None:
    """What protobuf refuses is refused with its outline, and what it reads is read the same."""
    proto = model()
    del proto.graph.initializer[1:]
    wide = np.arange(5000, dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(wide, "wide"))
    data, random = proto.SerializeToString(), np.random.default_rng(1)
    headers = len(data) - wide.nbytes
    refused = left_out = 0
    for _ in range(600):
        noise = bytearray(data)
        place = random.integers(headers)
        noise[place if place < headers - 60 else place - headers] = random.integers(256)
        try:
            complete = onnx.ModelProto.FromString(bytes(noise))
        except DecodeError:
            refused += 1
            with pytest.raises(DecodeError):
                outlined(bytes(noise))
            continue
        slim, places = outlined(bytes(noise))
        left_out += len(places)
        for tensor in slim.graph.initializer:
            if tensor.name in places:
                start, length = places[tensor.name]
                tensor.raw_data = bytes(noise[start : start + length])
                tensor.ClearField("data_location")
        assert slim == complete
    assert refused > 50
    assert left_out > 50


MEASURED = """
import sys, numpy
from pathlib import Path
import onnxruntime
if sys.argv[2] == "ours":
    import gradcam_multi_onnx.model
    from gradcam_multi_onnx.plugin import gradcam_multi_open
def now(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) / 1024
imports = now("VmRSS")
x = numpy.ones((1, 3, 16, 16), numpy.float32)
if sys.argv[2] == "ours":
    model = gradcam_multi_open(sys.argv[1])
    with model.trace(x, ["c"]) as trace:
        assert trace.vjp({"y": numpy.ones((1, 5), numpy.float32)})[0].any()
else:
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    session.run(None, {"x": x})
print(now("VmHWM") - imports, now("VmRSS") - imports)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_one_session(tmp_path: Path) -> None:
    """34 MB of weights: at most 1.2 times what a plain session takes, and a few that are fixed."""
    path, found = saved(tmp_path), {}
    for kind in ("plain", "ours"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(path), kind], capture_output=True, text=True,
            env={"PYTHONPATH": ":".join(sys.path), "CUDA_VISIBLE_DEVICES": "-1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[kind] = np.array(done.stdout.split(), float)
    # MB that no larger model adds to: onnx's schemas, numpy.random; 9 measured.
    assert (found["ours"] < 1.2 * found["plain"] + 15).all(), found
