"""The operations that a run lists: names, edges, roles, channel axes."""

from weakref import ref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures_torch import ARCHITECTURES, small_resnet
from gradcam_multi_torch.model import open_module
from torch import nn

from gradcam_multi.errors import InputError, LayerNotReachedError, UnknownLayerError
from gradcam_multi.layers import final_feature_map


def images(count=2, side=64):
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


def listed(model, inputs):
    return {layer.name: layer for layer in open_module(model.eval()).layers(inputs)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_layer(name):
    build, expected = ARCHITECTURES[name]
    layers = open_module(build()).layers(images())
    assert final_feature_map(layers).name == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_are_unique_and_edges_point_back(name):
    layers = open_module(ARCHITECTURES[name][0]()).layers(images())
    seen = set()
    for layer in layers:
        assert layer.name not in seen
        assert seen.issuperset(layer.inputs)
        seen.add(layer.name)
    assert [layer.output for layer in layers if layer.output] == ["output"]
    assert layers[-1].output == "output"


def test_resnet_names_edges_and_roles():
    layers = listed(small_resnet(), images())
    relu, add = layers["layer2.1"], layers["layer2.1.add"]
    assert relu.kind == "ReLU"
    assert relu.inputs == ("layer2.1.add",)
    assert add.inputs == ("layer2.1.bn3", "layer2.0")
    assert layers["layer2.0.add"].inputs == ("layer2.0.bn3", "layer2.0.downsample.1")
    # The ReLU module of a block runs three times: its last call is the block's own result.
    assert layers["layer2.1.relu"].inputs == ("layer2.1.bn1",)
    assert layers["layer2.1.relu#2"].inputs == ("layer2.1.bn2",)
    assert (layers["conv1"].role, layers["conv1"].kind) == ("conv", "Conv2d")
    assert layers["maxpool"].role == layers["avgpool"].role == "pool"
    assert layers["fc"].role == "linear"
    assert layers["layer2.1"].shape == (None, 64, 8, 8)
    assert layers["layer2.1"].grid == (8, 8)


@pytest.mark.parametrize("alias", ["layer2", "layer2.1.relu#3", "layer2.1.relu.relu#3"])
def test_other_names_of_a_tensor(alias):
    model = open_module(small_resnet())
    with model.trace(images(), ["layer2.1", alias]) as trace:
        gradients = trace.vjp({"output": np.ones_like(trace.logits["output"])})
    np.testing.assert_array_equal(gradients[0], gradients[1])
    assert np.abs(gradients[0]).max() > 0


class Functions(nn.Module):
    """Functions beside modules of the same names."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()
        self.identity = nn.Identity()
        self.drop = nn.Dropout()
        self.unused = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = F.relu(x - 0.1)
        x = F.relu(x - 0.1)
        skip = self.drop(x)
        x = x + self.identity(skip)
        first, _ = (x * 2).chunk(2, 1)
        x[:, 0] = 0
        return (x * first.mean((1, 2, 3), keepdim=True)).mean((2, 3))


def test_names_of_functions_stay_apart_from_modules():
    layers = listed(Functions(), images(side=8))
    assert {"relu", "relu_", "relu_#2", "sub", "sub#2"} <= layers.keys()
    assert (layers["relu"].kind, layers["relu_"].kind) == ("ReLU", "relu")


def test_dropout_and_identity_are_operations_of_their_own():
    layers = listed(Functions(), images(side=8))
    assert layers["drop"].role == layers["identity"].role == "identity"
    assert layers["add"].inputs == ("relu_#2", "identity")
    assert layers["identity"].inputs == ("drop",)


def test_tuples_and_items_written_in_place():
    layers = listed(Functions(), images(side=8))
    assert layers["chunk"].inputs == layers["chunk:1"].inputs == ("mul",)
    assert layers["setitem"].inputs == ("add",)
    assert layers["mul#2"].inputs == ("setitem", "mean")


@pytest.mark.parametrize(
    "name", ["relu_#2", "drop", "identity", "add", "chunk", "setitem", "mul", "mul#2", "conv"]
)
def test_gradient_at_any_kind_of_operation(name):
    """Central differences of `replay` in float64, where they err by about 1e-9."""
    module = Functions().double().eval()
    inputs = images(1, 8).astype(np.float64)
    rng = np.random.default_rng(1)
    model = open_module(module)
    with model.trace(inputs, [name]) as trace:
        start = trace.activations[0]
        cotangent = rng.normal(size=trace.logits["output"].shape).astype(np.float32)
        gradient = trace.vjp({"output": cotangent})[0]
        direction = rng.normal(size=start.shape).astype(np.float32)
        step = np.float32(2**-12)  # a power of two: float32 sums stay exact enough
        up = trace.replay(name, start + step * direction)["output"]
        down = trace.replay(name, start - step * direction)["output"]
    slope = ((up.astype(np.float64) - down) * cotangent).sum() / (2 * step)
    # The outputs cross the border as float32: 1e-7 of about 1, divided by the step, is 5e-4.
    np.testing.assert_allclose(slope, (gradient * direction).sum(), rtol=2e-3, atol=2e-3)


def test_unknown_and_unreached_layers():
    model = open_module(Functions().eval())
    with pytest.raises(UnknownLayerError, match="'conf'; did you mean 'conv'"):
        with model.trace(images(side=8), ["conf"]):
            pass
    with pytest.raises(LayerNotReachedError, match="'unused' is a module of the model"):
        with model.trace(images(side=8), ["unused"]):
            pass
    with pytest.raises(LayerNotReachedError, match=r"'conv' ran 1 time\(s\)"):
        with model.trace(images(side=8), ["conv#2"]):
            pass
    with pytest.raises(InputError, match="PyTorch needs inputs"):
        open_module(Functions()).layers()


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.often = nn.Conv2d(3, 4, 3)
        self.seldom = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return (self.often(x) if x.mean() < 10 else self.seldom(x)).mean((2, 3))


def test_a_layer_that_these_inputs_do_not_reach():
    model = open_module(Branching().eval())
    model.layers(images(side=8))
    with pytest.raises(LayerNotReachedError, match="did not run for these inputs"):
        with model.trace(images(side=8) + 100, ["often"]):
            pass
    with model.trace(images(side=8) + 100, ["seldom"]) as trace:
        assert trace.activations[0].shape == (2, 4, 6, 6)


class Tokens(nn.Module):
    """A vision transformer's layout: folded to tokens, a class token in front."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + F.gelu(self.mlp(x))
        return self.head(x[:, 0])


def test_channel_axis_of_tokens():
    layers = listed(Tokens(), images(side=16))
    assert layers["patch"].channel_axis == 1
    assert (layers["flatten"].channel_axis, layers["flatten"].shape) == (1, (None, 8, 16))
    assert (layers["transpose"].channel_axis, layers["transpose"].shape) == (2, (None, 16, 8))
    for name in ("cat", "norm", "attention", "mlp", "add#2"):
        assert (layers[name].channel_axis, layers[name].shape) == (2, (None, 17, 8)), name
    assert layers["getitem"].channel_axis is None
    with open_module(Tokens().eval()).trace(images(side=16), ["norm"]) as trace:
        assert trace.activations[0].shape == (2, 8, 17)
        gradient = trace.vjp({"output": np.ones((2, 5), np.float32)})[0]
        assert gradient.shape == (2, 8, 17)


class Shuffle(nn.Module):
    """ShuffleNet's channel shuffle, then ConvNeXt's detour through channels last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 6)

    def forward(self, x):
        x = self.conv(x)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = self.out(self.norm(x.permute(0, 2, 3, 1)))
        return x.permute(0, 3, 1, 2).mean((2, 3))


def test_channel_axis_through_shuffles_and_permutations():
    layers = listed(Shuffle(), images(side=8))
    assert layers["view"].channel_axis is None
    assert layers["reshape"].channel_axis == 1
    assert layers["permute"].channel_axis == layers["norm"].channel_axis == 3
    assert layers["out"].channel_axis == 3
    assert layers["permute#2"].channel_axis == 1
    assert layers["mean"].channel_axis is None


@pytest.mark.parametrize(("rank", "conv"), [(1, nn.Conv1d), (2, nn.Conv2d), (3, nn.Conv3d)])
def test_any_number_of_spatial_axes(rank, conv):
    module = nn.Sequential(conv(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    inputs = np.random.default_rng(0).normal(size=(2, 2, *[6] * rank)).astype(np.float32)
    module(torch.from_numpy(inputs))
    model = open_module(module.eval())
    layers = model.layers(inputs)
    assert final_feature_map(layers).name == "1"
    assert layers[0].grid == (4,) * rank
    with model.trace(inputs, ["1"]) as trace:
        assert trace.activations[0].shape == (2, 4, *[4] * rank)


def test_inputs_of_another_size_are_listed_anew():
    model = open_module(small_resnet())
    for side, cells in ((64, 8), (96, 12)):
        grids = {layer.name: layer.grid for layer in model.layers(images(side=side))}
        assert grids["layer2.1"] == (cells, cells)


class Watching(nn.Module):
    """Tells which of its own results are still held when it returns."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(4)])
        self.held = None

    def forward(self, x):
        results = []
        for conv in self.convs:
            x = F.relu(conv(x))
            results.append(ref(x))
        self.held = [result() is not None for result in results]
        return x.mean((2, 3))


def test_no_result_is_held_while_a_run_is_written_down():
    """All results of a large network at once would be most of an explanation's memory."""
    model = Watching()
    names = [layer.name for layer in open_module(model.eval()).layers(images())]
    assert model.held == [False, False, False, True]
    assert len(set(names)) == 9  # four convolutions, four ReLUs and the mean
