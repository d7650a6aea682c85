"""Models whose weights lie beside them, beyond what protobuf holds, and their cost in memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")

node = helper.make_node
RANDOM = np.random.default_rng(0)
MEBI = 1 << 20
LIMIT = 1.2  # times a plain session, which maps and packs them; 0.62 measured: all share one copy

PLAIN = """
import onnxruntime, numpy, sys
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {"x": numpy.ones((1, 3, 16, 16), numpy.float32), "i": numpy.zeros(1, numpy.int64)}
session.run(None, feeds)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
EXPLAINED = """
import onnxruntime, numpy, sys
from gradcam_multi_onnx import plugin
model = plugin.gradcam_multi_open(sys.argv[1])
model.layers()
feeds = {"x": numpy.ones((1, 3, 16, 16), numpy.float32), "i": numpy.zeros(1, numpy.int64)}
with model.trace(feeds, ["c"]) as trace:
    (gradient,) = trace.vjp({"y": numpy.ones((1, 4), numpy.float32)})
assert numpy.isfinite(gradient).all() and gradient.any()
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def peak(code: str, path: Path) -> float:
    """Run code on a model in a process of its own; return its peak memory in MiB.

    As the kernel counts it for that process; getrusage would begin with its parent's.
    """
    paths = ":".join(sys.path)
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


def save(path: Path, external: dict[str, tuple[int, ...]]) -> Path:
    """A classifier and a table beside it; weights in `external` lie in a file of their own.

    A hole of zeros, where it is beyond 1 GiB.
    """
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["a"]),
        node("Flatten", ["a"], ["f"]),
        node("Gemm", ["f", "d"], ["h"]),
        node("Gemm", ["h", "e"], ["s"]),
        node("Gather", ["table", "i"], ["row"], axis=0),
        node("Add", ["s", "row"], ["y"]),
    ]
    shapes = {"w": (8, 3, 3, 3), "d": (2048, 64), "e": (64, 4), "table": (10, 4)} | external
    graph = helper.make_graph(
        nodes, "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, 16, 16)),
         helper.make_tensor_value_info("i", TensorProto.INT64, ("N",))],
        [onnx.ValueInfoProto(name="y")],
    )  # fmt: skip
    offset = 0
    for name, shape in shapes.items():
        if name not in external:
            array = RANDOM.normal(size=shape).astype(np.float32)
            graph.initializer.append(numpy_helper.from_array(array, name))
            continue
        tensor = graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        length = int(np.prod(shape, dtype=np.int64)) * 4
        entries = {"location": "weights.bin", "offset": offset, "length": length}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
        offset += length
    with open(path.parent / "weights.bin", "wb") as file:
        if offset < 1 << 30:
            block = RANDOM.normal(size=MEBI // 4).astype(np.float32).tobytes()
            for _ in range(offset // MEBI + 1):
                file.write(block)
        file.truncate(offset)  # a hole takes no room on the disk
    opset = helper.make_opsetid("", 18)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    )
    return path


def test_external_data_beyond_two_gibibytes(tmp_path: Path) -> None:
    """A table of 2.5 GiB is mapped by ONNX Runtime and never read here."""
    path = save(tmp_path / "m.onnx", {"table": (5 * (1 << 25), 4)})
    assert (tmp_path / "weights.bin").stat().st_size > 1 << 31
    assert peak(EXPLAINED, path) < 600  # MiB; the process without a model takes about 120


def test_weights_beside_the_model_are_not_copied_twice(tmp_path: Path) -> None:
    """256 MiB lie behind the explained layer, so that its gradient and its check need them, too."""
    path = save(tmp_path / "m.onnx", {"d": (2048, 32 * 1024), "e": (32 * 1024, 4)})
    plain, explained = peak(PLAIN, path), peak(EXPLAINED, path)
    assert explained < LIMIT * plain


def test_weights_in_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", {})
    assert peak(EXPLAINED, path) < peak(PLAIN, path) + 150


def test_wrong_sizes_are_found_before_they_are_read(tmp_path: Path) -> None:
    from gradcam_multi_onnx import plugin

    from gradcam_multi.errors import ModelFileError

    path: Any = save(tmp_path / "m.onnx", {"table": (1 << 20, 4)})
    with open(tmp_path / "weights.bin", "wb") as file:
        file.truncate((1 << 24) - 1)
    with pytest.raises(ModelFileError, match="too short"):
        plugin.gradcam_multi_open(path)
