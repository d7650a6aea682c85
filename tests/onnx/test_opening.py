"""What the ONNX adapter opens, and what its models may be given."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from gradcam_multi_onnx import plugin
from small_onnx import CONV, DENSE, RANDOM, X, expected, model, node, opened

from gradcam_multi.errors import (
    InputError,
    MissingExtraError,
    ModelFileError,
)

# -- claiming and opening -----------------------------------------------------------------------


def test_what_is_claimed(tmp_path: Path) -> None:
    proto = model()
    data = proto.SerializeToString()
    path = tmp_path / "m.ONNX"
    path.write_bytes(data)
    providers = ["CPUExecutionProvider"]
    given = [
        proto, data, bytearray(data), path, str(path),
        onnxruntime.InferenceSession(str(path), providers=providers),
        onnxruntime.InferenceSession(data, providers=providers),
    ]  # fmt: skip
    cotangent = np.eye(5, dtype=np.float32)[:4]
    for each in given:
        with plugin.gradcam_multi_open(each).trace(X, ["a"]) as trace:
            (gradient,) = trace.vjp({"y": cotangent})
            # One matrix product and a division, in float32.
            np.testing.assert_allclose(gradient, expected(X, cotangent), rtol=0, atol=1e-7)
    for other in (object(), "model.pt", Path("model.keras"), 3, None, np.zeros(3)):
        assert plugin.gradcam_multi_open(other) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is a text file, and no model", "is not an ONNX model"),
        (b"", "holds no graph"),
        (None, "does not exist"),
        (model().SerializeToString()[:-40], "is not an ONNX model"),
    ],
    ids=["text", "empty", "absent", "truncated"],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=words) as raised:
        plugin.gradcam_multi_open(str(path))
    assert "\n" not in str(raised.value)
    assert "x.onnx" in str(raised.value)


def test_a_folder_and_damaged_graphs(tmp_path: Path) -> None:
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    with pytest.raises(ModelFileError, match="is a folder"):
        plugin.gradcam_multi_open(folder)
    with pytest.raises(ModelFileError, match="reads 'absent', which nothing makes"):
        opened([node("Relu", ["absent"], ["y"])])
    loop = [node("Add", ["x", "b"], ["a"]), node("Neg", ["a"], ["b"]), node("Neg", ["a"], ["y"])]
    with pytest.raises(ModelFileError, match="is damaged"):
        opened(loop)


def test_a_model_that_onnx_runtime_refuses() -> None:
    with pytest.raises(ModelFileError, match="ONNX Runtime refuses the model") as raised:
        with opened([node("Nonsense", ["x"], ["y"])]).trace(X, ["y"]):
            pass
    assert "\n" not in str(raised.value)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "gradcam-multi\[onnx\]"'):
        plugin.gradcam_multi_open("model.onnx")


def test_the_plugin_imports_no_framework_before_it_claims() -> None:
    code = (
        "import sys; from gradcam_multi_onnx import plugin; "
        "assert plugin.gradcam_multi_open('model.pt') is None; "
        "assert not {'onnx', 'onnxruntime', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_nothing_is_written_to_the_console(capfd: pytest.CaptureFixture[str]) -> None:
    with opened().trace(X, ["a"]) as trace:
        trace.vjp({"y": np.ones((4, 5), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_a_proto_changed_after_opening_does_not_matter() -> None:
    proto = model()
    one = plugin.gradcam_multi_open(proto)
    before = proto.SerializeToString()
    with one.trace(X, ["a"]) as trace:
        logits = trace.logits["y"]
    assert proto.SerializeToString() == before
    proto.graph.initializer[0].raw_data = bytes(len(proto.graph.initializer[0].raw_data))
    with one.trace(X, ["c"]) as trace:
        np.testing.assert_array_equal(trace.logits["y"], logits)


def test_a_file_changed_after_opening_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    one = plugin.gradcam_multi_open(path)
    path.write_bytes(model(weights={"w": CONV * 2, "d": DENSE}).SerializeToString() + b"\0\0")
    with pytest.raises(ModelFileError, match="has changed since it was opened"):
        with one.trace(X, ["a"]):
            pass


def test_external_data(tmp_path: Path) -> None:
    # The convolution's output weighs on the gradient at the input, so the weights must arrive.
    path = tmp_path / "m.onnx"
    onnx.save_model(
        model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    cotangent = np.eye(5, dtype=np.float32)[:4]
    found = []
    for given in (path, model()):
        with plugin.gradcam_multi_open(given).trace(X, ["x"]) as trace:
            found.append(trace.vjp({"y": cotangent})[0])
    np.testing.assert_array_equal(*found)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFileError):
        with plugin.gradcam_multi_open(path).trace(X, ["x"]):
            pass


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("beside", [False, True])
def test_one_model_for_runs_side_by_side(tmp_path: Path, threads: int, beside: bool) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(
        model(), path, save_as_external_data=beside, location="weights.bin", size_threshold=0
    )
    whole = plugin.gradcam_multi_open(path)
    shared = whole.side_by_side(threads)
    cotangent = np.eye(5, dtype=np.float32)[:4]

    def answers(each: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with each.trace(x, ["a"]) as trace:
            return trace.logits["y"], trace.vjp({"y": cotangent})[0]

    batches = [(n + 1) * X for n in range(8)]
    wanted = [answers(whole, x) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(partial(answers, shared), batches))
    # The sums of a convolution are cut among other numbers of threads at other places.
    np.testing.assert_allclose([y for y, _ in found], [y for y, _ in wanted], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal([g for _, g in found], [g for _, g in wanted])
    (plan,) = shared._plans.values()
    options = plan.forward.session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_side_by_side_is_for_the_cpu() -> None:
    one = opened()
    assert not one.accelerated
    one._graph.source = replace(one._graph.source, providers=(("CUDAExecutionProvider", {}),))
    assert one.side_by_side(1) is None
    assert one.accelerated


# -- inputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [X, (X,), {"x": X}, X.astype(np.float64), X.tolist()])
def test_forms_of_one_input(given: Any) -> None:
    with opened().trace(given, ["a"]) as trace:
        assert trace.logits["y"].shape == (4, 5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (X[0], r"takes float32 \(any, 3, 8, 8\), got \(3, 8, 8\); add the batch axis"),
        (X.transpose(0, 2, 3, 1), r"got \(4, 8, 8, 3\); axis 1 must be 3"),
        ({"z": X}, "no input is called 'z'"),
        ({}, "input 'x' is missing"),
        ((X, X), "2 inputs were given"),
        (np.array(["text"]), "give numbers"),
        (X[:0], "at least one item"),
        (object(), "give numbers"),
    ],
)
def test_inputs_that_do_not_fit(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        with opened().trace(given, ["a"]):
            pass
    assert "\n" not in str(raised.value)


def test_several_inputs_and_unequal_counts() -> None:
    two = opened(
        [node("Mul", ["x", "s"], ["m"]), node("GlobalAveragePool", ["m"], ["y"])],
        {}, inputs={"x": ("N", 3, 8, 8), "s": ("N", 1, 1, 1)},
    )  # fmt: skip
    s = np.array([1, 2, 3, 4], np.float32).reshape(4, 1, 1, 1)
    for given in ((X, s), {"s": s, "x": X}):
        with two.trace(given, ["m"]) as trace:
            np.testing.assert_array_equal(trace.activations[0], X * s)
    with pytest.raises(InputError, match="x 4, s 3"):
        with two.trace((X, s[:3]), ["m"]):
            pass


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_fixed_batch_size_is_filled_and_cut(size: int) -> None:
    """4 items in batches of 3 leave one, whose batch is filled by repetition."""
    fixed = opened(inputs={"x": (size, 3, 8, 8)})
    cotangent = RANDOM.normal(size=(4, 5)).astype(np.float32)
    with opened().trace(X, ["a"]) as trace:
        logits, activation = trace.logits["y"], trace.activations[0]
    with fixed.trace(X, ["a"]) as trace:
        # Other batch sizes may take other kernels: a few roundings of values of about 1.
        np.testing.assert_allclose(trace.logits["y"], logits, rtol=0, atol=2e-6)
        np.testing.assert_allclose(trace.activations[0], activation, rtol=0, atol=1e-5)
        (gradient,) = trace.vjp({"y": cotangent})
        np.testing.assert_allclose(gradient, expected(X, cotangent), rtol=0, atol=1e-6)
        again = trace.replay("a", trace.activations[0])["y"]
        np.testing.assert_allclose(again, logits, rtol=0, atol=2e-6)


def test_a_first_explanation_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    """NumPy's generators, Pillow and the writing of files take as long to import as a run."""
    onnx.save(model(), tmp_path / "m.onnx")
    script = (
        "import sys, numpy, gradcam_multi\n"
        "gradcam_multi.explain('m.onnx', numpy.ones((2, 3, 8, 8), 'float32'), 1).heatmap\n"
        "print(sorted({'numpy.random', 'numpy.ma', 'PIL', 'onnx.reference'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]"
