"""Random-weight twins of four block structures: PyTorch, Keras, and ONNX with the batch
normalisation folded into the convolutions and not."""

import warnings

import numpy as np
import pytest
import torch
from closeness import assert_close
from twins import CLASSES, PROGRAMS, TorchTwin, Weights, keras_twin

from gradcam_multi import Explainer
from gradcam_multi.cam import GRADIENT_METHODS
from gradcam_multi.metrics.evaluator import with_method

# 1e-6 of float32 noise a layer, through some twenty layers, and where the class score is a
# difference of large terms; a ReLU's sign flips at a few cells.
TOLERANCE = 1e-3
INPUTS = np.random.default_rng(3).normal(size=(3, 3, 64, 64)).astype(np.float32)


def exported(model):
    """Export by PyTorch; its optimizer folds the normalisation, and before it, it is there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model, (torch.tensor(INPUTS[:2]),), dynamo=True, optimize=False, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
        unfolded = program.model_proto
        program.optimize()
        folded = program.model_proto
    normalized = any(node.op_type == "BatchNormalization" for node in unfolded.graph.node)
    return folded.SerializeToString(), unfolded.SerializeToString(), normalized


@pytest.fixture(scope="module", params=PROGRAMS)
def twins(request):
    program, final = PROGRAMS[request.param]
    weights = Weights(program)
    module = TorchTwin(program, weights)
    folded, unfolded, normalized = exported(module)
    assert normalized or request.param == "vgg", "the export without optimisation must keep it"
    explainers = {  # opened once: each opening traces and compiles
        "keras": (Explainer(keras_twin(program, weights)), np.moveaxis(INPUTS, 1, -1)),
        "onnx folded": (Explainer(folded), INPUTS),
        "onnx unfolded": (Explainer(unfolded), INPUTS),
    }
    return request.param, final, Explainer(module), explainers


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_maps_agree(twins, method):
    name, _, reference, explainers = twins
    targets = [0, CLASSES // 2, CLASSES - 1]
    ranked = reference(INPUTS).classes
    reference = with_method(reference, method)
    for target in (ranked, targets):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a target that is not the top class may have no map
            expected = reference(INPUTS, list(target))
            alive = [i for i, status in enumerate(expected.status) if status == "ok"]
            assert alive, "no item has a map to compare"
            for other, (explainer, inputs) in explainers.items():
                got = with_method(explainer, method)(inputs, list(target))
                assert got.status == expected.status
                assert_close(
                    got.cam[alive], expected.cam[alive], TOLERANCE, f"{name}, {other}, {method}"
                )


def test_the_default_layer_is_the_same_tensor(twins):
    name, final, reference, explainers = twins
    layer = reference(INPUTS[:1], 0).layer
    assert layer == f"parts.{final}"
    with reference.model.trace(INPUTS, [layer]) as trace:
        expected = trace.activations[0]
    for other, (explainer, inputs) in explainers.items():
        default = explainer.layers(inputs).default.name
        if other == "keras":
            assert default == final
        with explainer.model.trace(inputs, [default]) as trace:
            assert trace.activations[0].shape == expected.shape, f"{name}, {other}: {default}"
            scale = np.abs(expected).max()
            np.testing.assert_allclose(trace.activations[0], expected, rtol=0, atol=1e-4 * scale)
