"""LeGrad against central differences of every attention weight, and what it is refused for."""

import numpy as np
import pytest
from legrad_references import slow_legrad, slow_weights_gradient
from numpy_adapter import NumpyBlocks

import gradcam_multi as gm
from gradcam_multi.blocks import token_blocks
from gradcam_multi.cam.legrad import legrad
from gradcam_multi.cam.probe import Attended
from gradcam_multi.spec import Layer
from gradcam_multi.testing import NETWORKS, inputs_of, probe_inputs, probe_network

# The adapter rounds gradients and values to float32, whose products are then added up.
TOLERANCE = 1e-5


def close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.fixture(scope="module")
def network():
    return NETWORKS["token"]()


def alone(inputs, i):
    return {name: array[i : i + 1] for name, array in inputs.items()}


def test_maps(network):
    inputs, targets = inputs_of(network, 2), [0, 3]
    found = gm.explain(network, inputs, targets, method="legrad")
    assert found.status == ("ok", "ok")
    assert (found.cam.shape, found.cost) == ((2, 3, 4), 4)
    for i, chosen in enumerate(targets):
        close(found.cam[i], slow_legrad(network, alone(inputs, i), "scores", chosen))


def test_gradients_of_the_weights_are_the_product_of_gradients_and_values(network):
    inputs = inputs_of(network, 1)
    model = gm.Explainer(network).model
    blocks = token_blocks(model.layers(inputs))
    with model.trace_blocks(inputs, blocks) as trace:
        for place, tokens in enumerate(trace.tokens):
            given = trace.head(tokens, lambda logits: {"scores": np.eye(5)[[2]]})
            gradient, values = trace.attended(place, given)
            found = gradient[0] @ values[0].swapaxes(1, 2)
            close(found, slow_weights_gradient(network, inputs, "scores", 2, place))


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (1, 1, 9, 2), (8, 3, 4, 1)])
def test_random_gradients_and_values(shape):
    rng = np.random.default_rng(0)
    blocks = [
        Attended(*rng.normal(size=(2, *shape)).astype(np.float32) * 10.0**p) for p in (0, -3, 4)
    ]

    class Probe:
        def attended(self):
            return iter(blocks)

        def on_grid(self, rows):
            return rows

    expected = np.zeros((shape[0], shape[2]))
    for gradient, values in blocks:
        for n, h, i, j in np.ndindex(*shape[:3], shape[2]):
            dot = float(np.dot(gradient[n, h, i].astype(float), values[n, h, j].astype(float)))
            expected[n, j] += max(dot, 0) / (shape[1] * shape[2] * len(blocks))
    close(legrad(Probe()), expected)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_the_logits_does_not_matter(network, scale):
    other = NETWORKS["token"]()
    for part in ("weight", "bias"):
        other.weights[f"logits.{part}"][:] *= scale
    inputs = inputs_of(network, 2)
    expected = gm.explain(network, inputs, 1, method="legrad")
    found = gm.explain(other, inputs, 1, method="legrad")
    assert found.status == expected.status
    np.testing.assert_allclose(found.heatmap, expected.heatmap, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", [gm.Probability(2), gm.ClassDifference(2, 1)])
def test_other_targets_are_scored_at_each_head(network, target):
    found = gm.explain(network, inputs_of(network, 2), target, method="legrad")
    plain = gm.explain(network, inputs_of(network, 2), 2, method="legrad")
    assert found.status == ("ok", "ok")
    assert np.abs(found.heatmap - plain.heatmap).max() > 0.01


def test_a_named_layer_does_not_matter(network):
    inputs = inputs_of(network, 2)
    expected = gm.explain(network, inputs, 1, method="legrad")
    for layer in ("a_norm1", "tokens", "patches"):
        found = gm.explain(network, inputs, 1, method="legrad", layer=layer)
        np.testing.assert_array_equal(found.cam, expected.cam)


def test_the_grid_that_was_asked_for(network):
    found = gm.explain(network, inputs_of(network, 2), 1, method="legrad", grid=(2, 6))
    expected = gm.explain(network, inputs_of(network, 2), 1, method="legrad")
    assert found.cam.shape == (2, 2, 6)
    np.testing.assert_array_equal(found.cam.reshape(2, -1), expected.cam.reshape(2, -1))


def test_the_runs_are_counted(network, monkeypatch):
    runs = []
    head = NumpyBlocks.head
    monkeypatch.setattr(NumpyBlocks, "head", lambda *args: runs.append(1) or head(*args))
    found = gm.explain(network, inputs_of(network, 2), 1, method="legrad")
    assert found.cost == 2 + len(runs) == 4


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # poor maps: what is tested
def test_poor_items_have_a_status_and_never_nan(network):
    inputs = inputs_of(network, 3)
    inputs["image"][1, 0, 3, 3] = np.nan
    found = gm.explain(network, inputs, 2, method="legrad")
    assert found.status == ("ok", "nonfinite", "ok")
    assert np.isfinite(found.heatmap).all()
    network = NETWORKS["token"]()
    network.weights["logits.weight"][:] = 0
    dead = gm.explain(network, inputs_of(network, 2), 2, method="legrad")
    assert dead.status == ("zero_gradient",) * 2


def test_a_model_without_attention_is_refused():
    with pytest.raises(gm.UnsupportedError, match="no block of attention") as error:
        gm.explain(probe_network(), probe_inputs(2), 1, method="legrad")
    assert "\n" not in str(error.value)


class Bare:
    """A model that gives no gradients of its attention."""

    def __init__(self, model):
        self.backend, self.inputs, self.outputs = "bare", model.inputs, model.outputs
        self.layers, self.trace = model.layers, model.trace


def test_models_without_these_gradients_are_refused_by_name(network):
    explainer = gm.Explainer(network, method="legrad")
    explainer.model = Bare(explainer.model)
    with pytest.raises(gm.UnsupportedError, match=r"attention were asked for.*'bare'") as error:
        explainer(inputs_of(network, 2), 1)
    assert "\n" not in str(error.value)


class Mixing(NumpyBlocks):
    """Takes heads for items."""

    def attended(self, block, cotangent):
        return tuple(
            np.moveaxis(x, 0, 1).reshape(x.shape) for x in super().attended(block, cotangent)
        )


def test_items_that_are_mixed_are_noticed(network):
    explainer = gm.Explainer(network, method="legrad")
    explainer.model.blocks_class = Mixing
    with pytest.raises(gm.UnsupportedError, match="batch_size=1") as error:
        explainer(inputs_of(network, 3), 1)
    assert "\n" not in str(error.value)


def described(*rows):
    """Layers from rows of name, role, inputs; all are rows of 9 tokens, the last but one pools."""
    return tuple(
        Layer(name, name.rstrip("0123456789"), role, (None, 9, 4) if name not in ("pool", "head")
              else (None, 4), 2 if name not in ("pool", "head") else None, inputs,
              "out" if name == "head" else None)
        for name, role, inputs in rows
    )  # fmt: skip


def block(n, source, *, norm_first=True):
    """A block's rows: its last is `end` n."""
    a, d = f"attend{n}", f"dense{n}"
    if norm_first:
        return [
            (f"norm{n}", "other", (source,)), (a, "attention", (f"norm{n}", f"norm{n}")),
            (f"middle{n}", "other", (source, a)), (d, "linear", (f"middle{n}",)),
            (f"end{n}", "other", (f"middle{n}", d)),
        ]  # fmt: skip
    return [
        (a, "attention", (source, source)), (f"add{n}", "other", (source, a)),
        (f"middle{n}", "other", (f"add{n}",)), (d, "linear", (f"middle{n}",)),
        (f"added{n}", "other", (f"middle{n}", d)), (f"end{n}", "other", (f"added{n}",)),
    ]  # fmt: skip


# What a normalisation is written out as: a difference and a quotient, no branch that mixes.
HEAD = [
    ("mean", "other", ("{0}",)), ("shift", "other", ("{0}", "mean")),
    ("spread", "other", ("shift",)), ("scale", "other", ("shift", "spread")),
    ("pool", "pool", ("scale",)), ("head", "linear", ("pool",)),
]  # fmt: skip


def model_of(count, **kind):
    rows, source = [("conv", "conv", ())], "conv"
    for n in range(count):
        rows += block(n, source, **kind)
        source = f"end{n}"
    rows += [(n, r, tuple(i.format(source) for i in inputs)) for n, r, inputs in HEAD]
    return described(*rows)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("count", [2, 3])
def test_blocks_are_found(count, norm_first):
    found = token_blocks(model_of(count, norm_first=norm_first), "out")
    assert [(b.attention, b.tokens) for b in found] == [
        (f"attend{n}", f"end{n}") for n in range(count)
    ]


def test_the_only_block():
    (found,) = token_blocks(model_of(1))
    assert (found.attention, found.tokens) == ("attend0", "end0")


def test_attention_behind_the_blocks_is_refused():
    rows = list(model_of(2))
    place = next(i for i, layer in enumerate(rows) if layer.name == "pool")
    pool = rows[place]
    rows[place] = Layer("pool", "pool", "attention", pool.shape, None, pool.inputs)
    with pytest.raises(gm.UnsupportedError, match="'pool' attends behind the last block"):
        token_blocks(rows)


def test_a_last_block_of_another_kind_is_refused():
    rows = described(
        ("conv", "conv", ()), *block(0, "conv"), *block(1, "end0", norm_first=False)[:2],
        ("pool", "pool", ("add1",)), ("head", "linear", ("pool",)),
    )  # fmt: skip
    with pytest.raises(gm.UnsupportedError, match="no addition is found"):
        token_blocks(rows)
