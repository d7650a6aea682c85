"""Inputs and outputs of every form, and the line that is said where they do not fit."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from architectures_torch import seeded, small_resnet
from gradcam_multi_torch.model import open_module
from torch import nn

from gradcam_multi.errors import InputError, UnsupportedError


def images(count=2, side=8, channels=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, channels, side, side)).astype(np.float32)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(6, 5)

    def forward(self, image, extra, scale=1.0):
        return self.fc(torch.cat([self.conv(image).mean((2, 3)), extra], 1)) * scale


@pytest.mark.parametrize(
    "shape",
    [
        lambda a, b: (a, b),
        lambda a, b: {"image": a, "extra": b},
        lambda a, b: {"extra": torch.from_numpy(b), "image": torch.from_numpy(a)},
        lambda a, b: (a.astype(np.float64), b, 1),
    ],
)
def test_several_inputs(shape):
    module, image = seeded(Pair), images()
    extra = np.ones((2, 2), np.float32)
    model = open_module(module)
    with model.trace(shape(image, extra), ["conv"]) as trace:
        expected = module(torch.from_numpy(image), torch.from_numpy(extra)).detach().numpy()
        # The same operations in the same order, but the convolution's threads may split anew.
        np.testing.assert_allclose(trace.outputs["output"], expected, rtol=1e-5, atol=1e-6)
    by_name = {spec.name: spec for spec in model.inputs}
    assert by_name["image"].shape == (None, 3, None, None)
    assert by_name["image"].layout == "channels_first"
    assert (by_name["extra"].shape, by_name["extra"].layout) == ((None, 2), None)


class OneDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, batch):
        return self.conv(batch["pixel values"]).mean((2, 3))


def test_a_dict_that_is_one_argument():
    with open_module(OneDict()).trace({"pixel values": images()}, ["conv"]) as trace:
        assert trace.activations[0].shape == (2, 4, 6, 6)


Named = namedtuple("Named", "logits aux")


@dataclass
class Record:
    logits: Any
    hidden: Any = None


class ModelOutput(OrderedDict):
    pass


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda a, b: (a, b), ["0", "1"]),
        (lambda a, b: [a, {"deep": b}], ["0", "1.deep"]),
        (lambda a, b: Named(a, b), ["logits", "aux"]),
        (lambda a, b: Record(a), ["logits"]),
        (lambda a, b: ModelOutput(logits=a, loss=None, hidden=(b,)), ["logits", "hidden.0"]),
        (lambda a, b: {"logits": a, "labels": a.argmax(1)}, ["logits"]),
    ],
)
def test_outputs_of_every_form(make, names):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x)
            return make(x.mean((2, 3)), x.amax((2, 3)))

    model = open_module(Model())
    with model.trace(images(), ["conv"]) as trace:
        assert list(trace.outputs) == list(trace.logits) == names
        gradient = trace.vjp({names[0]: np.ones((2, 4), np.float32)})[0]
    # The gradient of a mean over 36 cells, to float32.
    np.testing.assert_allclose(gradient, 1 / 36, rtol=1e-6)
    assert [spec.name for spec in model.outputs] == names


def test_an_output_without_numbers_to_differentiate():
    class Model(nn.Module):
        def forward(self, x):
            return x.argmax(1)

    with pytest.raises(UnsupportedError, match=r"found: output torch.int64"):
        open_module(Model()).layers(images())


class Block(nn.Module):
    """Returns a tuple, as attention blocks do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x).relu(), x.mean()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Block()

    def forward(self, x):
        return self.backbone(self.backbone(x)[0])[0].mean((2, 3))


def test_a_module_used_twice_that_returns_a_tuple():
    module, inputs = seeded(Twice), images()
    model = open_module(module)
    names = [layer.name for layer in model.layers(inputs)]
    assert {"backbone", "backbone#2", "backbone.conv", "backbone.conv#2"} <= set(names)
    with model.trace(inputs, ["backbone", "backbone#2", "backbone#2:0"]) as trace:
        first, second, again = trace.activations
        gradients = trace.vjp({"output": np.ones((2, 3), np.float32)})
    with torch.no_grad():
        once = module.backbone(torch.from_numpy(inputs))[0]
        np.testing.assert_allclose(first, once.numpy(), rtol=1e-5, atol=1e-6)  # float32 rounding
        twice = module.backbone(once)[0]
        np.testing.assert_allclose(second, twice.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(second, again)
    np.testing.assert_allclose(gradients[1], 1 / 64, rtol=1e-6)
    assert np.abs(gradients[0] - gradients[1]).max() > 1e-3


def test_channels_last_memory():
    module, inputs = small_resnet(), images(2, 64)
    expected = open_module(module)
    with expected.trace(inputs, ["layer2"]) as trace:
        plain = trace.activations[0], trace.vjp({"output": np.ones((2, 10), np.float32)})[0]
    model = open_module(module.to(memory_format=torch.channels_last))
    tensor = torch.from_numpy(inputs).to(memory_format=torch.channels_last)
    with model.trace(tensor, ["layer2"]) as trace:
        found = trace.activations[0], trace.vjp({"output": np.ones((2, 10), np.float32)})[0]
    for one, other in zip(found, plain, strict=True):
        assert one.flags.c_contiguous
        # Other kernels: float32 rounding over some ten layers.
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (images(channels=1, side=64), r"\(2, 1, 64, 64\) float32: .*to have 3 channels, but got 1"),
        (images(side=64)[0, 0, 0], r"\(64,\) float32: .*[Ee]xpected 3D"),
        (
            images(side=64).astype(np.int64),
            r"\(2, 3, 64, 64\) int64: .*(should be the same|expected scalar type)",
        ),
        (
            torch.zeros(1, 3, 64, 64, dtype=torch.float64),
            r"float64: .*(should be the same|expected scalar type)",
        ),
        ((images(), images()), r"forward\(\) takes 2 positional arguments"),
        ({"pixels": images()}, r"got \(dict.*(it takes x|took x)"),
        ("photo.jpg", "hold no array"),
        (np.array(["a"]), "dtype <U1; give numbers"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_inputs_that_do_not_fit(inputs, words, warm):
    model = open_module(small_resnet())
    if warm:
        model.layers(images(side=64))
    with pytest.raises(InputError, match=words) as caught:
        with model.trace(inputs, ["layer2"]):
            pass
    assert "\n" not in str(caught.value)
    if warm and caught.value.__cause__ is not None:
        assert "earlier runs took x (None, 3, None, None) float32" in str(caught.value)


def test_a_models_own_error_is_left_alone():
    class Model(nn.Module):
        def forward(self, x):
            raise ValueError("the moon is full")

    with pytest.raises(ValueError, match=r"^the moon is full$") as caught:
        open_module(Model()).layers(images())
    assert not isinstance(caught.value, InputError)
