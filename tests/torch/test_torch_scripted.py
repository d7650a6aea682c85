"""TorchScript, traced and scripted, as objects and as files, against the modules behind it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures_torch import ARCHITECTURES, seeded, small_resnet
from gradcam_multi_torch.model import open_module
from torch import Tensor, nn

from gradcam_multi import Explainer
from gradcam_multi.errors import InputError, ModelFileError, UnsupportedError
from gradcam_multi.layers import final_feature_map

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def images(count=2, side=64):
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


def trace(module, count=2, side=64):
    return torch.jit.trace(module, torch.from_numpy(images(count, side)), check_trace=False)


def through_a_file(program, path):
    torch.jit.save(program, path)
    return torch.jit.load(path)


def same(module, program, layer, output="output"):
    """A gradient and an activation: the same kernels on the same numbers."""
    eager, model = open_module(module), open_module(program)
    model.layers(images())
    with eager.trace(images(), [layer]) as one, model.trace(images(), [layer]) as other:
        cotangent = np.random.default_rng(1).normal(size=one.logits[output].shape)
        cotangent = {output: cotangent.astype(np.float32)}
        np.testing.assert_array_equal(other.activations[0], one.activations[0])
        np.testing.assert_array_equal(other.outputs[output], one.outputs[output])
        wanted, found = one.vjp(cotangent)[0], other.vjp(cotangent)[0]
        # Only sums may be split over threads in another way.
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
        assert wanted.any()


# torch.jit.script has no word for `get_submodule`, which our ResNet calls.
SCRIPTED = [name for name in ARCHITECTURES if name != "resnet"]


@pytest.mark.parametrize(
    ("how", "name"),
    [*(("trace", name) for name in ARCHITECTURES), *(("script", name) for name in SCRIPTED)],
)
def test_layers_and_gradients_are_those_of_the_module(how, name, tmp_path):
    build, default = ARCHITECTURES[name]
    module = build()
    program = trace(module) if how == "trace" else torch.jit.script(module)
    program = through_a_file(program, tmp_path / "model.pt")
    wanted = {layer.name: layer for layer in open_module(module).layers(images())}
    layers = open_module(program).layers(images())
    found = {layer.name: layer for layer in layers}
    assert len(found) == len(wanted)
    assert final_feature_map(layers).name == default
    if name == "resnet":  # a trace calls a module that is used three times once, and its functions
        assert {"layer2.1", "layer2.1.add", "layer2.1.bn3", "layer1.0.relu"} <= found.keys()
    else:
        assert found == wanted
    same(module, program, default)
    same(module, program, layers[0].name)


class Flow(nn.Module):
    """Loops, branches, containers, defaults and functions: what only a script keeps."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)])
        self.norm, self.drop, self.fc = nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Linear(8, 5)
        self.depth: int = 2

    def helper(self, x: Tensor, scale: float) -> Tensor:
        return x * scale

    def forward(self, x: Tensor, times: int = 2) -> dict[str, Tensor]:
        x = self.stem(x)
        kept: list[Tensor] = []
        for block in self.blocks:
            x = F.relu(self.norm(block(x)), inplace=True)
            kept.append(F.adaptive_avg_pool2d(x, 1).flatten(1))
        for _ in range(times):
            if x.size(0) > 1000:
                x = x - 1
            else:
                x = self.helper(x, 0.5) + x
        count = 0
        while count < self.depth and len(kept) > count:
            count += 1
        last = kept[-1] if count == 2 else kept[0]
        z = self.fc(self.drop(torch.cat([x.mean((2, 3)), last], dim=1)))
        return {"logits": z.softmax(-1), "last": last}


@pytest.mark.parametrize("layer", ["stem", "relu", "relu#2", "blocks.1", "add", "mul#2"])
def test_control_flow_containers_and_methods(layer, tmp_path):
    module = seeded(Flow)
    program = through_a_file(torch.jit.script(module), tmp_path / "model.pt")
    same(module, program, layer, "logits")
    model = open_module(program)
    model.layers(images())
    assert [spec.name for spec in model.outputs] == ["logits", "last"]
    assert model.outputs[0].activation == "softmax"
    with model.trace({"x": images(), "times": 1}, ["stem"]) as found:
        expected = module(torch.from_numpy(images()), 1)["logits"].detach().numpy()
        np.testing.assert_allclose(found.outputs["logits"], expected, rtol=1e-6)


def test_a_program_with_its_weights_folded_in():
    module = ARCHITECTURES["vgg"][0]()
    frozen = torch.jit.freeze(torch.jit.script(module))
    model = open_module(frozen)
    default = final_feature_map(model.layers(images()))
    eager = open_module(module)
    one = np.eye(10, dtype=np.float32)[[1, 2]]
    with (
        eager.trace(images(), ["features.11"]) as wanted,
        model.trace(images(), [default.name]) as found,
    ):
        # Freezing may fold: float32 rounding over a dozen layers.
        np.testing.assert_allclose(
            found.vjp({"output": one})[0],
            wanted.vjp({"output": one})[0],
            rtol=0,
            atol=1e-5 * np.abs(wanted.vjp({"output": one})[0]).max(),
        )


def test_files_need_trust(tmp_path):
    path, module = tmp_path / "model.pt", small_resnet()
    torch.jit.save(trace(module), path)
    with pytest.raises(ModelFileError, match="reading a TorchScript program runs code of the file"):
        Explainer(path)
    found, wanted = Explainer(path, trust=True)(images(), 2), Explainer(module)(images(), 2)
    assert found.layer == wanted.layer
    np.testing.assert_array_equal(found.cam, wanted.cam)


def test_the_program_is_left_as_found():
    module = seeded(Flow)
    program = torch.jit.script(module)
    program.train()
    program.stem.eval()
    before = {name: tensor.clone() for name, tensor in program.state_dict().items()}
    flags = [part.training for part in program.modules()]
    model = open_module(program)
    with model.trace(images(), ["stem"]) as running:
        wanted = module(torch.from_numpy(images()))["logits"].detach().numpy()
        np.testing.assert_allclose(running.outputs["logits"], wanted, rtol=1e-6)  # no dropout
        running.vjp({"logits": np.ones((2, 5), np.float32)})
    assert [part.training for part in program.modules()] == flags
    for name, tensor in program.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None
    assert all(parameter.requires_grad for parameter in program.parameters())


def test_a_trace_in_training_mode_is_refused():
    program = trace(seeded(nn.Sequential, nn.Conv2d(3, 4, 3), nn.Dropout()).train())
    with pytest.raises(UnsupportedError, match="aten::dropout in training mode: call eval"):
        open_module(program).layers(images())


class Parsing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(torch.relu, x))


def test_what_cannot_be_run_is_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"holds prim::fork, which cannot be run step by"):
        open_module(torch.jit.script(Parsing()))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((images(), 1, 2), "too many positional arguments; it takes x, times"),
        ({"pixels": images()}, "instead found type 'dict'.*; it takes x, times"),
        (images()[:, :1], "to have 3 channels, but got 1"),
    ],
)
def test_inputs_that_do_not_fit(inputs, words):
    with pytest.raises(InputError, match=words) as caught:
        open_module(torch.jit.script(seeded(Flow))).layers(inputs)
    assert "\n" not in str(caught.value)
