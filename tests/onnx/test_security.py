"""Model files as untrusted input: one clear line, whatever is in them."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import fuzz_onnx
from gradcam_multi_onnx import limits, plugin, validate
from onnx import TensorProto, helper, numpy_helper

from gradcam_multi.errors import GradcamError, InputError, ModelFileError, UnsupportedError

node = helper.make_node
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(2, 3, 3, 3)).astype(np.float32)
X = RANDOM.normal(size=(1, 3, 8, 8)).astype(np.float32)


def model(
    nodes: list[Any] | None = None, weights: dict[str, Any] | None = None, *,
    shape: tuple[Any, ...] = (1, 3, 8, 8), functions: tuple[Any, ...] = (), opset: int = 18,
) -> Any:  # fmt: skip
    """A convolution and a pooling, or other nodes."""
    made = nodes or [node("Conv", ["x", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["y"])]
    stored = {"w": WEIGHT} if weights is None else weights
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in stored.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    graph = helper.make_graph(made, "g", inputs, [onnx.ValueInfoProto(name="y")], tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def explain(given: Any, x: Any = X) -> Any:
    """Open and explain at the input, from which every operator matters."""
    opened = plugin.gradcam_multi_open(given)
    opened.layers()
    with opened.trace(x, ["x"]) as trace:
        return trace.vjp({name: np.ones_like(a) for name, a in trace.logits.items()})


def refused(given: Any, kind: type[GradcamError] = ModelFileError, x: Any = X) -> str:
    with pytest.raises(kind) as raised:
        explain(given, x)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


# -- structure ----------------------------------------------------------------------------------


def changed(change: Callable[[Any], Any]) -> Any:
    proto = model()
    change(proto)
    return proto


def _add(items: Any, **fields: Any) -> None:
    items.add(**fields)


def _huge(proto: Any, *dims: int) -> None:
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.graph.initializer.append(p.graph.initializer[0]), "'w' is there twice"),
        (lambda p: p.graph.input.append(p.graph.input[0]), "input 'x' is there twice"),
        (lambda p: p.graph.node.append(p.graph.node[0]), "value 'c' is there twice"),
        (lambda p: p.graph.initializer.pop(), "reads 'w', which nothing makes"),
        (lambda p: p.graph.node.pop(0), "reads 'c', which nothing makes"),
        (lambda p: p.graph.node[0].input.pop(), "Conv 'c' has 1 inputs"),
        (lambda p: p.graph.node[0].output.pop(), "Conv '' has 2 inputs and 0 outputs"),
        (lambda p: _huge(p, 1 << 40, 1 << 40), "absurd shape"),
        (lambda p: _huge(p, -1, 3, 3, 3), "absurd shape"),
        (lambda p: _huge(p, 2, 3, 3, 4), "needs 288 bytes and has 216"),
        (lambda p: setattr(p.graph.initializer[0], "data_type", 99), "unknown type 99"),
        (lambda p: p.opset_import[0].__setattr__("version", -5), "version -5"),
        (lambda p: _add(p.graph.node[0].attribute, name="group", type=1, f=1.0), "wrong type"),
        (lambda p: _add(p.graph.node[0].attribute, name="group", type=2, i=0), "must be positive"),
        (lambda p: _add(p.graph.output, name="absent"), "nothing makes its output 'absent'"),
        (lambda p: setattr(p.graph.node[0], "op_type", ""), "has no operator"),
    ],
)  # fmt: skip
def test_a_damaged_structure_is_named(change: Callable[[Any], Any], words: str) -> None:
    assert words in refused(changed(change))


def test_a_name_that_is_no_text() -> None:
    data = (
        model().SerializeToString().replace(b"GlobalAveragePool", b"GlobalAverage\xff\xfe\xfd\xfc")
    )
    assert "is no text" in refused(data)


def test_a_circle_is_named() -> None:
    nodes = [node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"]), node("Neg", ["a"], ["y"])]
    assert "Add '' reads 'b', which itself needs what it makes" in refused(model(nodes, {}))


def test_many_nodes_in_reverse_order_take_no_time() -> None:
    """Sorting by trial would take 10,000 passes."""
    names = ["x", *(f"v{i}" for i in range(10_000)), "y"]
    nodes = [node("Neg", [one], [other]) for one, other in itertools.pairwise(names)]
    opened = plugin.gradcam_multi_open(model(nodes[::-1], {}))
    assert [layer.name for layer in opened.layers()][-1] == "y"


def test_deep_nesting() -> None:
    body = helper.make_graph(
        [node("Neg", ["x"], ["out"])], "b", [], [onnx.ValueInfoProto(name="out")]
    )
    for _ in range(validate.MOST_SUBGRAPHS + 1):
        branch = node("If", ["yes"], ["out"], then_branch=body, else_branch=body)
        if branch.ByteSize() > 1 << 20:  # two branches each: one is enough for the depth
            del branch.attribute[0]  # else_branch: attributes are sorted
            branch.attribute.append(helper.make_attribute("else_branch", onnx.GraphProto(name="e")))
        body = helper.make_graph([branch], "b", [], [onnx.ValueInfoProto(name="out")])
    outer = [node("If", ["yes"], ["y"], then_branch=body, else_branch=onnx.GraphProto(name="e"))]
    assert "nested more than" in refused(model(outer, {"yes": True}))
    inner = onnx.TypeProto()
    inner.tensor_type.elem_type = TensorProto.FLOAT
    for _ in range(45):  # protobuf itself stops at 100 messages
        outer_type = onnx.TypeProto()
        outer_type.sequence_type.elem_type.CopyFrom(inner)
        inner = outer_type
    proto = model()
    proto.graph.input.add(name="deep", type=inner)
    refused(proto)


def _function(name: str, *calls: str) -> Any:
    nodes = [node(call, ["a"], [f"v{i}"], domain="own") for i, call in enumerate(calls)]
    nodes.append(node("Identity", ["v0" if calls else "a"], ["b"]))
    return helper.make_function("own", name, ["a"], ["b"], nodes, [
        helper.make_opsetid("", 18), helper.make_opsetid("own", 1)
    ])  # fmt: skip


def test_functions_that_call_themselves_or_explode() -> None:
    call = [node("F0", ["x"], ["y"], domain="own")]
    circle = (_function("F0", "F1"), _function("F1", "F0"))
    assert "calls itself" in refused(model(call, {}, functions=circle))
    laughs = tuple(_function(f"F{i}", *[f"F{i + 1}"] * 10) for i in range(30))
    assert "nodes" in refused(model(call, {}, functions=(*laughs, _function("F30"))))
    explain(model(call, {}, functions=(_function("F0", "F1"), _function("F1"))))


# -- sizes --------------------------------------------------------------------------------------

BOMBS = {
    "ConstantOfShape": (
        [node("ConstantOfShape", ["s"], ["k"])], {"s": np.array([1 << 20, 1 << 20])}),
    "computed size": (
        [node("Mul", ["s", "s"], ["t"]), node("ConstantOfShape", ["t"], ["k"])],
        {"s": np.array([1 << 12, 1 << 12])}),
    "size from NonZero": (
        [node("NonZero", ["s"], ["i"]), node("Mul", ["i", "m"], ["t"]),
         node("Squeeze", ["t"], ["q"]), node("ConstantOfShape", ["q"], ["k"])],
        {"s": np.array([0, 5, 5]), "m": np.array(1 << 20)}),
    "Expand": ([node("Expand", ["o", "s"], ["k"])],
               {"o": np.ones(1, np.float32), "s": np.array([1 << 16, 1 << 16])}),
    "Range": ([node("Range", ["a", "b", "c"], ["k"])],
              {"a": np.float32(0), "b": np.float32(1e12), "c": np.float32(1)}),
    "OneHot": ([node("OneHot", ["i", "b", "o"], ["k"])],
               {"i": np.arange(9), "b": np.array(1 << 40), "o": np.ones(2, np.float32)}),
    "doubling": (
        [node("Concat", [f"d{i}", f"d{i}"], [f"d{i + 1}"], axis=0) for i in range(40)]
        + [node("Identity", ["d40"], ["k"])], {"d0": np.ones(4, np.float32)}),
    "many": (
        [node("ConstantOfShape", ["s"], [f"k{i}"]) for i in range(5)]
        + [node("Sum", [f"k{i}" for i in range(5)], ["k"])], {"s": np.array([1 << 27])}),
    "outer product": (
        [node("Reshape", ["d", "s"], ["e"]), node("Mul", ["d", "e"], ["k"])],
        {"d": np.ones(1 << 15, np.float32), "s": np.array([-1, 1])}),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_constants_of_absurd_size_are_refused_before_they_are_computed(bomb: str) -> None:
    nodes, weights = BOMBS[bomb]
    ending = [node("ReduceMax", ["k"], ["r"], keepdims=0), node("Add", ["x", "r"], ["y"])]
    assert "would make" in refused(model([*nodes, *ending], weights), UnsupportedError)


def test_values_of_absurd_size_are_refused_before_a_run() -> None:
    tile = [node("Tile", ["x", "r"], ["t"]), node("ReduceSum", ["t"], ["y"], keepdims=0)]
    repeats = {"r": np.array([1, 1, 1 << 16, 1 << 16])}
    assert "would make a value" in refused(model(tile, repeats), UnsupportedError)
    free = model(tile, repeats, shape=("N", 3, "H", "W"))
    assert "would make a value" in refused(free, UnsupportedError)
    assert "absurd shape" in refused(model(shape=(1, 3, 1 << 40, 1 << 40)))


def test_constants_below_the_limits_are_computed() -> None:
    nodes = [
        node("ConstantOfShape", ["s"], ["k"]), node("ReduceSum", ["k"], ["r"], keepdims=0),
        node("Add", ["x", "r"], ["y"]),
    ]  # fmt: skip
    (gradient,) = explain(model(nodes, {"s": np.array([1 << 10, 1 << 10])}))
    np.testing.assert_array_equal(gradient, np.ones_like(X))
    assert limits.MOST_CONSTANT > 1 << 20


def test_an_endless_loop_is_refused() -> None:
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Neg", ["v"], ["w"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ()),
         helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("v", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
         helper.make_tensor_value_info("w", TensorProto.FLOAT, None)],
    )  # fmt: skip
    loop = [node("Loop", ["m", "", "x"], ["y"], body=body)]
    assert "rounds of a loop" in refused(model(loop, {"m": np.array(1 << 62)}), UnsupportedError)


# -- what would end the process -----------------------------------------------------------------


def test_divisions_without_a_quotient() -> None:
    """The processor traps on -2^63 / -1; ONNX Runtime computes it when it loads the model."""
    nodes = [
        node("Div", ["a", "b"], ["q"]), node("Cast", ["q"], ["f"], to=1),
        node("Add", ["x", "f"], ["y"]),
    ]  # fmt: skip
    for dividend, divisor in ((-(1 << 63), -1), (1, 0)):
        weights = {"a": np.array([dividend]), "b": np.array([divisor])}
        assert "no quotient" in refused(model(nodes, weights))
    explain(model(nodes, {"a": np.array([-7]), "b": np.array([-1])}))


def test_slices_of_axes_below_zero() -> None:
    """Shape inference in onnx and ONNX Runtime aborts on them."""
    bounds = {"b": np.array([1]), "e": np.array([3]), "v": np.array([2])}
    pads = {"p": np.array([0, 0, -20, 0, 0, 0, 0, 0])}
    pad, cut = node("Pad", ["x", "p"], ["q"]), node("Slice", ["q", "b", "e", "v"], ["y"])
    assert "reads a value with axes of [1, 3, -12, 8]" in refused(model([pad, cut], bounds | pads))
    # Behind another slice, and backwards over an axis that a slice left empty.
    first = node("Slice", ["x", "b", "e", "v"], ["one"])
    behind = [first, node("Pad", ["one", "p"], ["q"]), cut]
    some = {"p": np.array([0, 0, -5, 0, 0, 0, 0, 0])}
    assert "axes of [1, 3, -3, 8]" in refused(model(behind, bounds | some))
    empty = [
        node("Slice", ["x", "b", "b", "v"], ["q"]),
        node("Slice", ["q", "b", "e", "v", "s"], ["y"]),
    ]
    assert "axes of [1, 3, 0, 8]" in refused(model(empty, bounds | {"s": np.array([-1])}))
    sound = [first, node("Slice", ["one", "e", "b", "v", "s"], ["y"])]
    explain(model(sound, bounds | {"s": np.array([-1])}))


# -- external data ------------------------------------------------------------------------------


def _external(tmp_path: Path, location: str, **entries: Any) -> Path:
    """A model in a folder whose weights lie at `location`."""
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    proto = model()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    path = _external(tmp_path, "w.bin", offset=64, length=WEIGHT.nbytes)
    (path.parent / "w.bin").write_bytes(b"\1" * 64 + WEIGHT.tobytes())
    np.testing.assert_array_equal(explain(path)[0], explain(model())[0])
    link = tmp_path / "link.onnx"
    link.symlink_to(path)  # the data lie where the link points to
    np.testing.assert_array_equal(explain(link)[0], explain(model())[0])


@pytest.mark.parametrize(
    "location", ["../secret", "a/../../secret", "ABSOLUTE", "C:\\secret", "..\\secret", "",
                 "*/_ORT_MEM_ADDR_/*"]
)  # fmt: skip
def test_external_data_never_leave_the_folder(tmp_path: Path, location: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(WEIGHT.tobytes())
    path = _external(tmp_path, str(secret) if location == "ABSOLUTE" else location)
    message = refused(path)
    assert "leaves the model's folder" in message or "is no file name" in message


def test_links_and_devices_are_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    path = _external(tmp_path, "w.bin")
    (path.parent / "w.bin").symlink_to(tmp_path / "secret")
    assert "leaves the model's folder" in refused(path)
    (path.parent / "w.bin").unlink()
    (path.parent / "w.bin").symlink_to("w.bin")
    refused(path)
    (path.parent / "w.bin").unlink()
    os.mkfifo(path.parent / "w.bin")  # reading it would wait for ever
    assert "no plain file" in refused(path)
    path.unlink()
    os.mkfifo(path)
    assert "no plain file" in refused(path)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": 8}, "too short"),
        ({"offset": -1}, "do not fit"),
        ({"offset": "many"}, "is no number"),
        ({"length": 4}, "do not fit"),
        ({"length": 1 << 60}, "do not fit"),
        ({"offset": 1 << 62}, "too short"),
    ],
)
def test_offsets_and_lengths_are_checked(
    tmp_path: Path, entries: dict[str, Any], words: str
) -> None:
    path = _external(tmp_path, "w.bin", **entries)
    (path.parent / "w.bin").write_bytes(WEIGHT.tobytes())
    assert words in refused(path)


def test_tensors_in_nodes_and_bodies_are_checked_too(tmp_path: Path) -> None:
    outside = TensorProto(name="t", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../secret")
    constant = node("Constant", [], ["k"], value=outside)
    body = helper.make_graph([constant], "b", [], [onnx.ValueInfoProto(name="k")])
    branch = node("If", ["yes"], ["k"], then_branch=body, else_branch=body)
    path = tmp_path / "m.onnx"
    for each in (constant, branch):
        proto = model([each, node("Add", ["x", "k"], ["y"])], {"yes": True})
        path.write_bytes(proto.SerializeToString())
        assert "leaves the model's folder" in refused(path)


def test_bytes_have_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _external(tmp_path, "w.bin")
    (path.parent / "w.bin").write_bytes(WEIGHT.tobytes())
    monkeypatch.chdir(path.parent)  # nor is the working directory one
    assert "give the path" in refused(path.read_bytes())


# -- chance -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_models_end_in_an_explanation_or_in_an_error(seed: int, tmp_path: Path) -> None:
    """Hundreds of mutations of bytes and of structure; a crash leaves the culprit in the file."""
    case = tmp_path / "case.onnx"
    command = [sys.executable, fuzz_onnx.__file__, str(seed), "12", str(case)]
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path}
    )
    culprit = f"{done.returncode}: {done.stderr[-3000:]}"
    assert done.returncode == 0, culprit
    assert not done.stderr
    outcomes = json.loads(done.stdout)  # nothing else is printed
    assert outcomes["explained"] > 10
    assert outcomes["ModelFileError"] > 10
    assert sum(outcomes.values()) > 100


def test_an_absent_error_class_is_noticed() -> None:
    """The driver lets through what is no error of gradcam_multi."""
    assert fuzz_onnx.explain(b"no model") == "ModelFileError"
    assert fuzz_onnx.explain(model().SerializeToString()) == "explained"
    assert issubclass(InputError, GradcamError)
