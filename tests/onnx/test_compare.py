"""``gradcam compare`` and ``doctor`` on ONNX files, quantised ones among them."""

import json

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import onnx
import onnxruntime as ort
from click.testing import CliRunner
from onnx import numpy_helper
from PIL import Image

import gradcam_multi as gm
from gradcam_multi.cli import main
from gradcam_multi.demo import as_inputs, load_examples, load_network
from gradcam_multi.plugins import installed

SCENES = load_examples()


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def changed(model, change):
    """A copy in which a function has changed each weight."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(change(tensor), tensor.name))
    return copy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network, the same with its last weights shuffled, slightly rounded, and the scenes."""
    folder = tmp_path_factory.mktemp("compare")
    model = onnx.load_from_string(installed().build(load_network("sound"), "onnx"))
    rng = np.random.default_rng(0)

    def shuffle(tensor):
        array = numpy_helper.to_array(tensor)
        late = tensor.name.startswith(("conv5", "logits"))
        return rng.permutation(array.ravel()).reshape(array.shape) if late else array

    def rounded(tensor):
        return numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32) * 1.0001

    assert any(tensor.name.startswith("logits") for tensor in model.graph.initializer)
    onnx.save(model, folder / "sound.onnx")
    onnx.save(changed(model, shuffle), folder / "shuffled.onnx")
    onnx.save(changed(model, rounded), folder / "rounded.onnx")
    (folder / "labels.txt").write_text("\n".join(load_network("sound").classes))
    (folder / "scenes").mkdir()
    for index, scene in enumerate(SCENES):
        Image.fromarray(scene.image).save(folder / "scenes" / f"{index}.png")
    return folder


def compare(folder, *more):
    return run("compare", folder / "sound.onnx", *more, "--preprocess", "unit")


def test_a_copy_that_is_nearly_the_same_passes(folder):
    result = compare(folder, folder / "rounded.onnx", folder / "scenes")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert "passed: max_drift 0.05" in result.stdout
    assert len([line for line in result.stdout.splitlines() if ".png" in line]) == 8


def test_shuffled_weights_fail_and_the_panel_shows_it(folder, tmp_path):
    result = compare(
        folder, folder / "rounded.onnx", folder / "shuffled.onnx", folder / "scenes",
        "--labels", folder / "labels.txt", "-o", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    assert "shuffled.onnx: drift" in result.stdout
    assert "rounded.onnx: drift" not in result.stdout
    assert str(tmp_path / "out" / "worst.png") in result.stdout
    with Image.open(tmp_path / "out" / "worst.png") as panel:
        assert panel.width > 4 * 256
        assert panel.height > 4 * 256
    assert compare(
        folder, folder / "shuffled.onnx", folder / "scenes", "--max-drift", "1"
    ).exit_code == 0  # fmt: skip


def test_json_holds_what_the_api_finds(folder):
    result = compare(folder, folder / "shuffled.onnx", folder / "scenes", "--json", "--target", "3")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert "shuffled.onnx: drift" in result.stderr
    found = gm.compare(
        folder / "sound.onnx", folder / "shuffled.onnx",
        [folder / "scenes" / f"{i}.png" for i in range(8)], 3, preprocess="unit",
    )  # fmt: skip
    assert report == json.loads(found.to_json())
    assert {image["target"] for image in report["others"][0]["images"]} == {3}


def test_a_bad_picture_is_skipped_and_named(folder, tmp_path):
    good = folder / "scenes" / "0.png"
    bad = tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:300])
    result = compare(folder, folder / "rounded.onnx", good, bad)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "bad.png" in result.stderr
    assert "0.png" in result.stdout
    report = json.loads(compare(folder, folder / "rounded.onnx", good, bad, "--json").stdout)
    assert "bad.png" in report["skipped"][0]
    assert report["passed"]
    alone = compare(folder, folder / "rounded.onnx", bad)
    assert alone.exit_code == 2
    assert alone.stdout == ""
    assert "bad.png" in alone.stderr


def test_layers_by_pair(folder):
    result = compare(
        folder, folder / "rounded.onnx", folder / "scenes" / "0.png", "--json",
        "--layer", "relu4=relu5",
    )  # fmt: skip
    report = json.loads(result.stdout)
    assert (report["reference"]["layer"], report["others"][0]["layer"]) == ("relu4", "relu5")


class Scenes:
    """Calibration data, one scene at a time."""

    def __init__(self):
        self.left = iter([{"input": array[None]} for array in as_inputs(SCENES)])

    def get_next(self):
        return next(self.left, None)


@pytest.fixture(scope="module")
def quantised(folder):
    """The network in eight bits, by ONNX Runtime's own tool, in both of its forms."""
    pytest.importorskip("onnxruntime.quantization", reason="needs onnxruntime's quantisation")
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    files = {}
    for form in (QuantFormat.QDQ, QuantFormat.QOperator):
        files[form.name] = folder / f"{form.name}.onnx"
        quantize_static(
            folder / "sound.onnx", files[form.name], Scenes(), quant_format=form,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return files


def test_pairs_of_quantize_and_dequantize_are_compared_straight_through(folder, quantised):
    paths = sorted((folder / "scenes").iterdir())
    found = gm.compare(folder / "sound.onnx", quantised["QDQ"], paths, preprocess="unit")
    assert found.passed
    assert all(pair.top1_agrees for pair in found.pairs)
    # Eight bits are steps of 1/255 of the largest activation; measured 0.012 and 0.9998.
    assert found.worst.drift < 0.02
    assert min(pair.agreement.pearson for pair in found.pairs) > 0.999
    # And it is seen where the quantised model has changed: the same with shuffled weights.
    other = gm.compare(quantised["QDQ"], folder / "shuffled.onnx", paths, preprocess="unit")
    assert not other.passed


def test_dynamic_quantisation_keeps_the_layer_and_the_maps(folder):
    """Convolutions make integers there; what turns these to floats stands for them."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs that tool")
    quantization.quantize_dynamic(folder / "sound.onnx", folder / "dynamic.onnx")
    kinds = {node.op_type for node in onnx.load(folder / "dynamic.onnx").graph.node}
    assert "ConvInteger" in kinds
    assert "Conv" not in kinds
    paths = sorted((folder / "scenes").iterdir())
    found = gm.compare(folder / "sound.onnx", folder / "dynamic.onnx", paths, preprocess="unit")
    assert found.others[0].layer == found.reference.layer == "relu5"
    assert found.passed
    assert found.worst.drift < 0.02  # as above; measured 0.011
    assert all(pair.top1_agrees for pair in found.pairs)


def test_a_top_score_at_the_highest_integer_has_a_map(quantised):
    """Calibrated on these scenes, the largest score of all is the highest integer."""
    explanation = gm.explain(quantised["QDQ"], as_inputs(SCENES))
    assert set(explanation.status) == {"ok"}
    # The logits are those before the last rounding, which is in steps of 1/255 of their range.
    span = np.ptp(explanation.outputs)
    assert np.abs(explanation.logits - explanation.outputs).max() < span / 255
    assert (explanation.logits != explanation.outputs).any()


def test_integers_throughout_are_refused_by_name(folder, quantised):
    result = compare(folder, quantised["QOperator"], folder / "scenes")
    assert result.exit_code == 2
    assert "QOperator.onnx" in result.stderr
    assert "QLinearConv" in result.stderr
    assert "QDQ" in result.stderr
    diagnosis = run("doctor", quantised["QOperator"])
    assert diagnosis.exit_code == 1
    assert "QLinearConv" in diagnosis.stdout


def test_doctor_says_what_a_file_is(folder, quantised):
    result = run("doctor", folder / "sound.onnx", "--image", folder / "scenes" / "0.png",
                 "--preprocess", "unit")  # fmt: skip
    assert result.exit_code == 0, result.output
    for part in ("sound.onnx, 0.3 MB", f"ONNX Runtime {ort.__version__}", "input (N, 3, 96, 96)",
                 "logits (N, 8) float32", "*  relu5", "12x12", "0.png", "gradcam++"):  # fmt: skip
        assert part in result.stdout
    report = json.loads(run("doctor", quantised["QDQ"], "--json").stdout)
    assert report["explainable"]
    assert "quantised" in report["framework"]
    assert [each["grid"] for each in report["candidates"]][:4] == [[n, n] for n in (12, 24, 48, 96)]


def test_doctor_says_why_not(folder, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes((folder / "sound.onnx").read_bytes()[:-1000])
    result = run("doctor", broken)
    assert result.exit_code == 1
    assert "cannot be explained: " in result.stdout
    assert run("doctor", tmp_path / "absent.onnx").exit_code == 2
    assert run("doctor", folder / "sound.onnx", "--layer", "relu9").exit_code == 2
    assert run("doctor", folder / "sound.onnx", "--image", tmp_path / "no.png").exit_code == 2
