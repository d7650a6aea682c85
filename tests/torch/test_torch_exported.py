"""Programs of torch.export, as objects and as files, against the modules that they came from."""

import zipfile

import numpy as np
import pytest
import torch
from architectures_torch import ARCHITECTURES, seeded, small_resnet
from gradcam_multi_torch.model import open_module
from torch import nn

from gradcam_multi import Explainer
from gradcam_multi.errors import InputError, ModelFileError, UnsupportedError
from gradcam_multi.layers import final_feature_map

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's own pytree


def images(count=2, side=64):
    return np.random.default_rng(0).normal(size=(count, 3, side, side)).astype(np.float32)


def export(module, count=2, side=64, free=True, **options):
    batch = ({0: torch.export.Dim("batch")},) if free else None
    inputs = (torch.from_numpy(images(count, side)),)
    return torch.export.export(module, inputs, dynamic_shapes=batch, **options)


# What decomposing leaves of the functions that a module was written with.
DECOMPOSED = {"flatten", "adaptive_avg_pool2d", "max_pool2d", "dropout"}


@pytest.mark.parametrize("form", ["plain", "strict", "decomposed"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_and_gradients_are_those_of_the_module(name, form):
    build, default = ARCHITECTURES[name]
    module = build()
    program = export(module, strict=form == "strict")
    program = program.run_decompositions() if form == "decomposed" else program
    eager, model = open_module(module), open_module(program)
    expected = {layer.name: layer for layer in eager.layers(images())}
    layers = model.layers(images())
    assert final_feature_map(layers).name == default
    found = {layer.name: layer for layer in layers}
    missing = expected.keys() - found.keys()
    assert missing <= (DECOMPOSED if form == "decomposed" else set())
    for layer in expected.keys() & found.keys():
        assert found[layer].shape == expected[layer].shape
        if form != "decomposed":
            assert found[layer].kind == expected[layer].kind
            assert found[layer].inputs == expected[layer].inputs
    shape = (2, eager.outputs[0].shape[1])
    cotangent = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    for layer in (default, layers[0].name, layers[len(layers) // 2].name):
        with eager.trace(images(), [layer]) as one, model.trace(images(), [layer]) as other:
            pairs = [
                (one.activations[0], other.activations[0]),
                (one.vjp({"output": cotangent})[0], other.vjp({"output": cotangent})[0]),
            ]
            for wanted, given in pairs:
                # The same kernels; decomposing takes others: float32 rounding over the network.
                bound = (1e-5 if form == "decomposed" else 1e-6) * np.abs(wanted).max()
                np.testing.assert_allclose(given, wanted, rtol=0, atol=bound)


def test_the_source_of_a_layer():
    layers = {layer.name: layer for layer in open_module(export(small_resnet())).layers(images())}
    assert layers["layer2.1.bn3"].source == "layer2.1.bn3"
    assert layers["layer2.1"].source == "layer2.1.relu"
    assert layers["layer2.1.add"].source == "layer2.1"
    assert layers["flatten"].source is None


class Twice(nn.Module):
    """A backbone that is called twice, and outputs by name, behind a softmax."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(3, 10)

    def forward(self, x, scale):
        z = self.head(self.backbone(self.backbone(x)).mean((2, 3))) * scale
        return {"probabilities": z.softmax(1), "features": x}


def test_reused_modules_dict_outputs_and_several_inputs():
    module, scale = seeded(Twice), np.full((2, 1), 2, np.float32)
    tensors = (torch.from_numpy(images(2, 8)), torch.from_numpy(scale))
    model = open_module(torch.export.export(module, tensors))
    assert [(spec.name, spec.shape) for spec in model.inputs] == [
        ("x", (2, 3, 8, 8)),
        ("scale", (2, 1)),
    ]
    cotangent = {"probabilities": np.eye(10, dtype=np.float32)[[1, 2]]}
    eager = open_module(module)
    for inputs in ((images(2, 8), scale), {"x": images(2, 8), "scale": scale}):
        for layer in ("backbone", "backbone#2", "backbone.0"):
            with eager.trace(inputs, [layer]) as one, model.trace(inputs, [layer]) as other:
                np.testing.assert_array_equal(other.activations[0], one.activations[0])
                wanted = one.vjp(cotangent)[0]
                # The same operations: only sums may be split over threads in another way.
                bound = 1e-6 * np.abs(wanted).max()
                np.testing.assert_allclose(other.vjp(cotangent)[0], wanted, rtol=0, atol=bound)
                np.testing.assert_array_equal(
                    other.logits["probabilities"], one.logits["probabilities"]
                )


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        with torch.no_grad():
            x = self.body(self.stem(x).relu())
        return self.fc(x.mean((2, 3)))


def test_a_part_of_the_graph_without_gradient():
    module = seeded(Frozen)
    eager, model = open_module(module), open_module(export(module, side=8, free=False))
    last = final_feature_map(model.layers(images(2, 8))).name
    cotangent = np.eye(10, dtype=np.float32)[[1, 2]]
    with (
        eager.trace(images(2, 8), ["body"]) as one,
        model.trace(images(2, 8), [last]) as other,
    ):
        np.testing.assert_array_equal(other.activations[0], one.activations[0])
        np.testing.assert_allclose(
            other.vjp({"output": cotangent})[0], one.vjp({"output": cotangent})[0], rtol=1e-6
        )


def test_a_program_in_training_mode_is_refused():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    with pytest.raises(UnsupportedError, match=r"in training mode \('batch_norm' changes"):
        open_module(export(module))


def test_inputs_that_a_program_was_not_exported_for():
    model = open_module(export(small_resnet(), count=1, free=False))
    with pytest.raises(InputError, match=r"size\(\)\[0\] == 1; it takes x \(1, 3, 64, 64\) float"):
        model.layers(images(3))
    model.layers(images(1))
    with pytest.raises(InputError, match=r"it takes x \(1, 3, 64, 64\)"):
        with model.trace(images(1, 32), ["layer2"]):
            pass


def test_files(tmp_path):
    path, module = tmp_path / "model.pt2", small_resnet()
    torch.export.save(export(module), path)
    with pytest.raises(ModelFileError, match="an exported program runs code of the file; give tr"):
        Explainer(str(path))
    found, wanted = Explainer(path, trust=True)(images()), Explainer(module)(images())
    assert found.layer == wanted.layer == "layer2.1"
    np.testing.assert_array_equal(found.cam, wanted.cam)
    (tmp_path / "broken.pt2").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="cannot read") as caught:
        Explainer(tmp_path / "broken.pt2", trust=True)
    assert "\n" not in str(caught.value)


def test_a_compiled_package_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/data/aotinductor/model/model.so", b"")
    with pytest.raises(UnsupportedError, match="compiled to machine code, which has no layers"):
        Explainer(tmp_path / "model.pt2", trust=True)


def test_the_program_is_left_as_found():
    program = export(small_resnet())
    before = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    flags = {name: tensor.requires_grad for name, tensor in program.state_dict.items()}
    explainer = Explainer(program)
    hooks = [dict(part._forward_hooks) for part in explainer.model.module.modules()]
    explainer(images())
    assert [dict(part._forward_hooks) for part in explainer.model.module.modules()] == hooks
    for name, tensor in program.state_dict.items():
        assert torch.equal(tensor, before[name])
        assert tensor.requires_grad == flags[name]
        assert tensor.grad is None
