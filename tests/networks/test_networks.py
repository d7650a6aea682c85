"""Gradients of whole networks, to the last feature map, an early one and the input.

Compared with the framework's own at 1e-3 of the largest. Where a float32 ReLU falls on the other
side, other weights show it (`known_findings.OTHER_SEED`); the light models of the onnx package are
compared with float64 at ONNX Runtime's own activations instead.
"""

from collections.abc import Callable

import exports_keras
import exports_torch
import light_zoo
import numpy as np
import pytest
from catalogue import CASES, KERAS, KERAS_CASES, TORCH_CASES, ZOO, ZOO_CASES
from coverage_table import Recorder, rows
from gradcam_multi_onnx.plugin import gradcam_multi_open
from gradient_referee import PLACES, TOLERANCE, Referee, compare
from known_findings import EXPORTER_FAILS, OTHER_SEED, REFUSED

from gradcam_multi.errors import UnsupportedError
from gradcam_multi.layers import final_feature_map

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def named(cases: list[tuple[str, str]]) -> pytest.MarkDecorator:
    ids = ["-".join(case).replace(", ", "_").replace(" ", "_") for case in cases]
    return pytest.mark.parametrize(("network", "exporter"), cases, ids=ids)


def check(
    recorder: Recorder, case: tuple[str, str], data: bytes, referee: Referee, inputs: np.ndarray
) -> None:
    if case in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[case]):
            compare(data, referee, inputs)
        recorder.refused(*case, f"refused: {REFUSED[case]}")
        return
    finding = compare(data, referee, inputs)
    for place in PLACES:
        error = finding.errors[place]
        assert error <= TOLERANCE, f"{place}: {error:.1e} of the largest gradient"
    recorder.equal(*case, finding)


@named(TORCH_CASES)
def test_torch_exports(
    network: str,
    exporter: str,
    recorder: Recorder,
    exported_by_torch: Callable[[str, str, int], bytes],
) -> None:
    case, described = (network, exporter), exports_torch.NETWORKS[network]
    if case in EXPORTER_FAILS:
        recorder.refused(*case, EXPORTER_FAILS[case])
        pytest.skip(EXPORTER_FAILS[case])
    seed = OTHER_SEED.get(case, (0, ""))[0]
    data = exported_by_torch(network, exporter, seed)
    referee = exports_torch.Autograd(described, exports_torch.built(described, seed))
    check(recorder, case, data, referee, exports_torch.drawn(described, 3, seed))


@named(KERAS_CASES)
def test_keras_exports(
    network: str, exporter: str, recorder: Recorder, request: pytest.FixtureRequest
) -> None:
    case, described = (network, exporter), exports_keras.NETWORKS[network]
    if case in EXPORTER_FAILS:
        recorder.refused(*case, EXPORTER_FAILS[case])
        pytest.skip(EXPORTER_FAILS[case])
    model = exports_keras.built(described)
    if exporter == KERAS:
        data = request.getfixturevalue("exported_by_keras")(network)
    else:
        data = exports_keras.exported(model)
    check(recorder, case, data, exports_keras.Tape(described, model), exports_keras.drawn(model, 3))


@named(ZOO_CASES)
def test_light_zoo(network: str, exporter: str, recorder: Recorder) -> None:
    proto = light_zoo.loaded(network.removeprefix("light "))
    data = proto.SerializeToString()
    model = gradcam_multi_open(data)
    layers = model.layers()
    early = next(layer.name for layer in layers if layer.kind == "Relu")
    last = final_feature_map(layers, model.outputs[0].name).name
    inputs = np.random.default_rng(0).normal(size=(3, *model.inputs[0].shape[1:]))
    referee = light_zoo.Interpreter(proto, model, early, last)
    finding = compare(data, referee, inputs.astype(np.float32), model=model)
    assert max(finding.errors.values()) <= TOLERANCE, finding.errors
    recorder.equal(network, ZOO, finding)


def test_table_has_every_case_and_no_other(recorder: Recorder) -> None:
    if recorder.writing:
        pytest.skip("the table is being written")
    assert list(rows()) == CASES


def test_findings_name_cases() -> None:
    assert {*EXPORTER_FAILS, *REFUSED, *OTHER_SEED} <= set(CASES)


def test_at_least_25_architectures_have_equal_gradients() -> None:
    equal = {name for (name, _), row in rows().items() if row[2] != "-"}
    assert len(equal) >= 25
