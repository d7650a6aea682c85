"""What a gradient reads one slice of leaves the forward run as that slice."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the ONNX backend is not installed")
pytest.importorskip("onnxruntime", reason="the ONNX backend is not installed")

import onnx
from gradcam_multi_onnx.autodiff.walk import differentiate
from gradcam_multi_onnx.model import OnnxModel
from gradcam_multi_onnx.settle import types_of
from gradcam_multi_onnx.source import open_source
from onnx import TensorProto
from small_graphs import Arrays, gradients, graph_of, node, normal

BATCH, TOKENS, WIDTH = 2, 8, 6
WEIGHTS: Arrays = {
    "w": normal(WIDTH, WIDTH, seed=1), "first": np.array(0), "third": np.array(3),
    "along": np.array([1]),
}  # fmt: skip
HIDDEN = [
    node("MatMul", ["x", "w"], ["h"]),
    node("Sigmoid", ["h"], ["s"]),
    node("MatMul", ["s", "w"], ["m"]),
    node("Erf", ["m"], ["e"]),
    node("Add", ["x", "e"], ["r"]),
]


def model(nodes: list[onnx.NodeProto], outputs: tuple[str, ...] = ("y",)) -> bytes:
    proto = graph_of([*HIDDEN, *nodes], ("N", TOKENS, WIDTH), WEIGHTS).source.parse()
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    return bytes(proto.SerializeToString())


def token(which: str, to: str) -> onnx.NodeProto:
    return node("Gather", ["r", which], [to], axis=1)


def kept(opened: OnnxModel, x: np.ndarray, cotangents: Arrays) -> tuple[set[str], np.ndarray]:
    """What the forward run returns beside x, y and z, and the gradient at x."""
    with opened.trace(x, ["x"]) as trace:
        (gradient,) = trace.vjp(cotangents)
        names = {name for run in trace._runs for name in run}
    return names - {"x", "y", "z"}, gradient


def expected(output: str, nodes: list[onnx.NodeProto], x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """With every value whole."""
    nodes = [*nodes, node("Identity", [output], ["y"])] if output != "y" else nodes
    graph = graph_of([*HIDDEN, *nodes], ("N", TOKENS, WIDTH), WEIGHTS)
    return gradients(graph, differentiate(graph, ["x"], "y"), x, g)["x"]


@pytest.mark.parametrize("batch", [1, BATCH])
def test_behind_a_token_its_slices_are_kept(batch: int) -> None:
    x, g = normal(batch, TOKENS, WIDTH), normal(batch, WIDTH, seed=9)
    opened = OnnxModel(open_source(model([token("third", "y")])))
    names, found = kept(opened, x, {"y": g})
    assert names == {"m[1, 3:4]", "s[1, 3:4]"}
    # The same products of the same numbers.
    np.testing.assert_allclose(found, expected("y", [token("third", "y")], x, g), rtol=1e-6)
    assert np.any(found[:, 3])
    assert not np.any(np.delete(found, 3, axis=1))


def test_two_outputs_keep_what_each_reads() -> None:
    """Two tokens: a slice each. A token and the mean: whole, and the slices are cut from it."""
    x, g = normal(BATCH, TOKENS, WIDTH), normal(BATCH, WIDTH, seed=9)
    mean = node("ReduceMean", ["r", "along"], ["z"], keepdims=0)
    for other, names in (
        (token("first", "z"), {"m[1, 3:4]", "s[1, 3:4]", "m[1, 0:1]", "s[1, 0:1]"}),
        (mean, {"m", "s"}),
    ):
        nodes = [token("third", "y"), other]
        opened = OnnxModel(open_source(model(nodes, outputs=("y", "z"))))
        for output in ("y", "z"):
            found_names, found = kept(opened, x, {output: g})
            assert found_names == names
            alone = [each for each in nodes if output in each.output]
            np.testing.assert_allclose(found, expected(output, alone, x, g), rtol=1e-6)


def test_an_opset_whose_slices_have_attributes_keeps_whole_values() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Sigmoid", ["h"], ["s"]),
        node("Gather", ["s", "third"], ["y"], axis=1),
    ]  # fmt: skip
    proto = graph_of(nodes, ("N", TOKENS, WIDTH), WEIGHTS).source.parse()
    proto.opset_import[0].version = 9
    opened = OnnxModel(open_source(proto.SerializeToString()))
    x, g = normal(BATCH, TOKENS, WIDTH), normal(BATCH, WIDTH, seed=9)
    names, found = kept(opened, x, {"y": g})
    assert names == {"s"}
    rest = 1 / (1 + np.exp(-x[:, 3] @ WEIGHTS["w"]))
    # Float32, three operations.
    np.testing.assert_allclose(found[:, 3], (g * rest * (1 - rest)) @ WEIGHTS["w"].T, rtol=1e-4)


def test_shapes_leave_the_run_alone_and_sequences_have_none() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]), node("Reshape", ["x", "shape"], ["a"]),
        node("SplitToSequence", ["a"], ["parts"], axis=1), node("Relu", ["a"], ["y"]),
    ]  # fmt: skip
    graph = graph_of(nodes, ("N", TOKENS, WIDTH))
    for name in ("a", "y"):
        graph.types.pop(name, None)
    graph.types["a"] = graph.type("x")
    one, two = types_of(
        graph, ["a", "parts", "y"], {"x": normal(1, TOKENS, WIDTH)}, {"x": normal(2, TOKENS, WIDTH)}
    )
    assert {name: kind.shape for name, kind in one.items()} == dict.fromkeys("ay", (1, 8, 6))
    assert {kind.shape for kind in two.values()} == {(2, 8, 6)}
    assert {kind.dtype for kind in two.values()} == {TensorProto.FLOAT}


PEAK = """
import sys
from pathlib import Path
import numpy
from gradcam_multi_onnx.graph import Graph
from gradcam_multi_onnx.settle import types_of
from gradcam_multi_onnx.source import open_source
def held(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) >> 10
graph = Graph(open_source(sys.argv[1]))
sample = {"x": numpy.ones((1, 1024, 1024), "f4")}
before = held("VmRSS")
(found,) = types_of(graph, graph.producer, sample)
assert [kind.shape for kind in found.values()] == [(1, 1024, 1024)] * 80
print(held("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_a_run_for_shapes_lets_go_of_values(tmp_path: Path) -> None:
    """80 values of 4 MB."""
    names = ["x", *(f"v{n}" for n in range(79)), "y"]
    nodes = [node("Sigmoid", [before], [after]) for before, after in pairwise(names)]
    graph = graph_of(nodes, ("N", 1024, 1024))
    onnx.save(graph.source.parse(), tmp_path / "m.onnx")
    out = subprocess.check_output([sys.executable, "-c", PEAK, str(tmp_path / "m.onnx")])
    # MB: the run needs two of them at once; all of them would be 320.
    assert int(out) < 80
