"""The kit's reference against central differences, and its networks against what they promise."""

import re
from pathlib import Path

import numpy as np
import pytest

from gradcam_multi.cam import METHODS, raw_maps
from gradcam_multi.testing import NETWORKS, Reference, inputs_of
from gradcam_multi.testing.network import Node
from gradcam_multi.testing.operators import OPERATORS

RNG = np.random.default_rng(0)
MAPS, TOKENS = (2, 3, 4, 6), (2, 5, 4)


def draw(*shape):
    # Distinct values at least 0.01 apart and away from 0: no step of the difference crosses a
    # kink of ReLU or changes the winner of a pooling.
    values = (np.arange(np.prod(shape)) - np.prod(shape) // 2 + 0.5) * 0.02
    return RNG.permutation(values).reshape(shape)


CASES = {
    "add": ([MAPS, MAPS], {}, {}),
    "attention": ([TOKENS] * 3, {}, {"heads": 2}),
    "batchnorm": ([MAPS], {"weight": (3,), "bias": (3,), "mean": (3,), "variance": (3,)}, {}),
    "concat": ([MAPS, (2, 2, 4, 6)], {}, {}),
    "conv": ([MAPS], {"weight": (5, 3, 3, 3), "bias": (5,)}, {}),
    "conv 1-D": ([(2, 3, 9)], {"weight": (5, 3, 5), "bias": (5,)}, {}),
    "conv 3-D": ([(2, 2, 4, 3, 5)], {"weight": (3, 2, 3, 3, 3), "bias": (3,)}, {}),
    "conv strided": (
        [(2, 3, 5, 7)], {"weight": (5, 3, 2, 2), "bias": (5,)}, {"stride": 2, "padding": 0}
    ),
    "dense": ([TOKENS], {"weight": (3, 4), "bias": (3,)}, {}),
    "gap": ([MAPS], {}, {}),
    "layernorm": ([TOKENS], {"weight": (4,), "bias": (4,)}, {}),
    "maxpool": ([MAPS], {}, {}),
    "position": ([TOKENS], {"weight": (1, 5, 4)}, {}),
    "prepend": ([TOKENS], {"weight": (1, 1, 4)}, {}),
    "relu": ([MAPS], {}, {}),
    "select": ([TOKENS], {}, {"index": 1}),
    "softmax": ([(2, 5)], {}, {}),
    "tokens": ([MAPS], {}, {}),
}  # fmt: skip


def test_every_operator_has_a_case():
    assert {name.split()[0] for name in CASES} == set(OPERATORS)


def test_every_operator_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text()
    table = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert set(OPERATORS) <= set(re.findall(r"`(\w+)`", table))


@pytest.mark.parametrize("case", CASES)
def test_a_pull_is_the_central_difference(case):
    shapes, weights, attributes = CASES[case]
    op = case.split()[0]
    inputs = [draw(*shape) for shape in shapes]
    weights = {name: np.abs(draw(*shape)) + 0.1 for name, shape in weights.items()}
    node = Node("n", op, tuple("xyz"[: len(inputs)]), attributes)
    result = OPERATORS[op].forward(node, weights, *inputs)
    cotangent = RNG.normal(size=result.shape)
    pulled = OPERATORS[op].pull(node, weights, inputs, cotangent)
    step = 1e-5
    for place, pull in enumerate(pulled):
        expected = np.zeros_like(inputs[place])
        for index in np.ndindex(expected.shape):
            ends = []
            for sign in (1, -1):
                moved = [x.copy() for x in inputs]
                moved[place][index] += sign * step
                ends.append((OPERATORS[op].forward(node, weights, *moved) * cotangent).sum())
            expected[index] = (ends[0] - ends[1]) / (2 * step)
        # Truncation is of order step^2 = 1e-10, rounding of order 1e-16 / step = 1e-11, each
        # times sums of a hundred terms.
        np.testing.assert_allclose(pull, expected, rtol=0, atol=1e-7)


def test_a_convolution_is_its_definition():
    x, weight = draw(1, 2, 5, 4), draw(3, 2, 3, 3)
    node = Node("n", "conv", ("x",), {"stride": 2, "padding": 1})
    out = OPERATORS["conv"].forward(node, {"weight": weight, "bias": np.arange(3.0)}, x)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for o, i, j in np.ndindex(out.shape[1:]):
        patch = padded[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        assert out[0, o, i, j] == pytest.approx((patch * weight[o]).sum() + o, rel=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_whole_networks_are_directional_differences(name):
    network = NETWORKS[name]()
    reference = Reference(network, inputs_of(network, 2))
    for probe in network.probes:
        own = reference.tensors[probe]
        # What a ReLU has made zero stays so: of equal zeros in a pooling the first wins.
        direction = RNG.normal(size=own.shape) * (own != 0)
        cotangent = RNG.normal(size=reference.logits.shape)
        step = 1e-7  # so small that few of a network's kinks are crossed
        ends = [
            (reference.replay(probe, own + sign * step * direction) * cotangent).sum()
            for sign in (1, -1)
        ]
        slope = (reference.vjp(cotangent, probe) * direction).sum()
        # 1e-16 / step = 1e-9, times sums of some hundred terms.
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_the_same_each_time_and_its_map_says_something(name):
    network, again = NETWORKS[name](), NETWORKS[name]()
    assert network.nodes == again.nodes
    for key, array in network.weights.items():
        np.testing.assert_array_equal(array, again.weights[key])
        np.testing.assert_array_equal(array, array.astype(np.float16))
    reference = Reference(network, inputs_of(network))
    for output, default in network.defaults.items():
        assert default in {node.name for node in network.nodes}
        cotangent = np.eye(5)[[0, 1, 2, 3]]
        gradients = reference.to_core(default, reference.vjp({output: cotangent}, default))
        activations = reference.to_core(default, reference.tensors[default])
        _, status = raw_maps(
            activations.astype(np.float32), gradients.astype(np.float32), METHODS["gradcam"]
        )
        assert status.count("ok") >= 3, status
