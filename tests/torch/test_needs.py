"""What users of CAM libraries run into, and what must never happen: PyTorch's share, by need.

Through the public interface. The parts of a need that concern the adapter alone are tested beside
it: in-place layers and views in test_torch_gradients.py, threads, precisions and callers' modes
in test_torch_contract.py, containers of every form in test_torch_inputs.py.
"""

import copy
import gc
import sys
import warnings
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from architectures_torch import ARCHITECTURES, seeded, small_resnet
from torch import nn

import gradcam_multi as gm
from gradcam_multi.errors import (
    GradcamError,
    LayerNotOnPathError,
    LayerNotReachedError,
    TargetError,
    UnknownLayerError,
    UnsupportedError,
)

# The same float32 operations in the same order: only a sum's split over threads may differ.
SAME = 1e-6


def images(count=2, side=64, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32)


def reference(module, path, inputs, classes, call=1):
    """Plain Grad-CAM, by autograd through all of the module: r(sum_k mean(g_k) A_k)."""
    kept = []

    def hook(_module, _args, output):
        kept.append(output.clone())
        return kept[-1].clone()

    tensors = [torch.from_numpy(array).requires_grad_() for array in inputs]
    handle = module.get_submodule(path).register_forward_hook(hook)
    with torch.enable_grad():
        scores = module(*tensors)
        score = scores[range(len(scores)), classes].sum()
        (gradient,) = torch.autograd.grad(score, kept[call - 1])
    handle.remove()
    weights = gradient.mean(dim=tuple(range(2, gradient.ndim)), keepdim=True)
    return (weights * kept[call - 1]).sum(1).relu().detach().numpy()


def close(actual, expected, tolerance=1e-5):
    """float32 sums in another order than the reference's, by default."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def quiet(explainer, *arguments):
    """Explain, where some of the maps may be blank: networks of random weights make such."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gm.CamWarning)
        return explainer(*arguments)


# Need 4: gradients that exist.


class TwoBranches(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.dropped = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        self.dropped(x)
        return self.head(self.features(x).relu().mean((2, 3)))


@pytest.mark.parametrize("caller", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_need_04_a_frozen_backbone_under_any_caller(caller):
    module = small_resnet()
    expected = reference(module, "layer2.1", [images()], [3, 7])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith("fc."))
    with caller():
        found = quiet(gm.Explainer(module), torch.from_numpy(images()), [3, 7])
    close(found.cam, expected)
    assert found.cam.any()
    assert all(parameter.grad is None for parameter in module.parameters())


def test_need_04_a_layer_off_the_path_is_named():
    module = seeded(TwoBranches)
    with pytest.raises(LayerNotOnPathError, match="does not depend on layer 'dropped'"):
        gm.explain(module, images(2, 8), layer="dropped")
    with pytest.raises(UnknownLayerError, match="did you mean 'features'"):
        gm.explain(module, images(2, 8), layer="feature")


def test_need_04_a_gradient_of_zero_is_said():
    module = seeded(TwoBranches)
    with torch.no_grad():
        module.head.weight.zero_()
    with pytest.warns(gm.CamWarning, match="zero_gradient"):
        explanation = gm.explain(module, images(2, 8))
    assert explanation.status == ("zero_gradient",) * 2


# Need 11: memory, and need 28's threads.


def test_need_11_memory_over_500_calls():
    explainer, batch = gm.Explainer(small_resnet()), images(4)
    sizes = {}
    for call in range(1, 501):
        quiet(explainer, batch, call % 10)
        if call in (100, 500):
            gc.collect()
            pages = Path("/proc/self/statm").read_text().split()[1]
            sizes[call] = int(pages) * 4096
    assert sizes[500] <= 1.02 * sizes[100]


def test_need_11_eight_threads_give_the_maps_of_a_serial_run():
    explainer = gm.Explainer(small_resnet())
    work = [(images(1 + n % 3, seed=n), n % 10) for n in range(48)]
    serial = [quiet(explainer, *each) for each in work]
    with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
        warnings.simplefilter("ignore", gm.CamWarning)
        parallel = list(pool.map(lambda each: explainer(*each), work))
    assert len(parallel) == len(work)
    for one, other in zip(serial, parallel, strict=True):
        close(other.cam, one.cam, SAME)
        np.testing.assert_array_equal(other.classes, one.classes)


# Need 19: in-place operations and views.


class XceptionBlock(nn.Module):
    """Separable convolutions behind in-place ReLUs, and a skip that reads the block's input."""

    def __init__(self, width, inplace):
        super().__init__()
        self.relu1, self.relu2 = nn.ReLU(inplace=False), nn.ReLU(inplace=inplace)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.pointwise = nn.Conv2d(width, width, 1)
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        y = self.pointwise(self.depthwise(self.relu1(x)))
        y = self.last(self.relu2(y))
        y += x
        return y


class Xception(nn.Module):
    def __init__(self, inplace=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.block1, self.block2 = XceptionBlock(8, inplace), XceptionBlock(8, inplace)
        self.inplace = inplace
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.block2(self.block1(self.stem(x)))
        if self.inplace:
            x[:, :4] *= 2  # a view, written in place
        else:
            x = torch.cat([x[:, :4] * 2, x[:, 4:]], 1)
        return self.head(F.relu(x, inplace=self.inplace).mean((2, 3)))


@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenet", "xception"])
def test_need_19_in_place_networks_have_the_maps_of_those_that_are_not(name):
    build = (lambda: seeded(Xception)) if name == "xception" else ARCHITECTURES[name][0]
    module, plain = build(), build()
    plain.inplace = False
    for part in plain.modules():
        if hasattr(part, "inplace"):
            part.inplace = False
    assert any(getattr(part, "inplace", False) for part in module.modules())
    known = {layer.name for layer in gm.layers(module, images())}
    names = [n.name for n in gm.layers(plain, images()).spatial if n.name in known]
    checked = 0
    for layer in [names[n] for n in np.linspace(0, len(names) - 1, 12).astype(int)]:
        wanted = quiet(gm.Explainer(plain, layer=layer), images(), [1, 2])
        found = quiet(gm.Explainer(module, layer=layer), images(), [1, 2])
        close(found.cam, wanted.cam, SAME)
        checked += found.cam.any()
    assert checked >= 6


def test_need_19_a_layer_before_an_in_place_relu_keeps_its_negative_values():
    module = ARCHITECTURES["vgg"][0]()
    assert isinstance(module.features[11], nn.ReLU)
    assert module.features[11].inplace
    with gm.Explainer(module).model.trace(images(), ["features.10"]) as trace:
        trace.vjp({"output": np.ones_like(trace.logits["output"])})
        captured = trace.activations[0]
        with torch.no_grad():
            expected = module.features[:11](torch.from_numpy(images())).numpy()
    assert (expected < 0).any()
    close(captured, expected)


class Written(nn.Module):
    """Takes a view, and writes into it without a word to the tensor that it is a view of."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x):
        x = self.conv(x)
        part = x[:, :3]
        part.mul_(2)
        return self.head(x.mean((2, 3)))


def test_need_19_a_view_that_is_written_in_place_is_refused_by_name():
    module = seeded(Written)
    close(
        quiet(gm.Explainer(module, layer="conv"), images(2, 8), 1).logits,
        module(torch.from_numpy(images(2, 8))).detach().numpy(),
    )
    with pytest.raises(UnsupportedError, match="layer 'getitem' is a view into another tensor"):
        gm.explain(module, images(2, 8), 1, layer="getitem")


# Need 20: several inputs, siamese networks, shared layers.


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.ReLU())
        self.head = nn.Linear(12, 4)

    def forward(self, left, right):
        pooled = [self.backbone(image).mean((2, 3)) for image in (left, right)]
        return self.head(torch.cat(pooled, 1))


def test_need_20_each_call_of_a_shared_backbone_has_its_own_map():
    module, left, right = seeded(Siamese), images(2, 16), images(2, 16, seed=1)
    maps = []
    for layer, call in (("backbone", 1), ("backbone#2", 2)):
        for inputs in ((left, right), {"right": right, "left": left}):
            found = quiet(gm.Explainer(module, layer=layer), inputs, [1, 2])
            close(found.cam, reference(module, "backbone", [left, right], [1, 2], call))
        maps.append(found.cam)
    assert np.abs(maps[0] - maps[1]).max() > 1e-3
    with pytest.raises(LayerNotReachedError, match=r"ran 2 time\(s\)"):
        gm.explain(module, (left, right), layer="backbone#3")


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.features, self.head = nn.Conv2d(3, 6, 3), nn.Linear(11, 4)

    def forward(self, table, image):
        return self.head(torch.cat([table, self.features(image).relu().mean((2, 3))], 1))


def test_need_20_of_image_and_table_the_image_is_mapped():
    module, table = seeded(Mixed), np.ones((2, 5), np.float32)
    explanation = quiet(gm.Explainer(module), (table, images(2, 16)), 1)
    assert explanation.layer == "relu"
    assert explanation.heatmap.shape == (2, 16, 16)
    # The head's own weights over the image's channels, and the pooled sum over its cells.
    weights = module.head.weight[1, 5:].detach().numpy() / 14**2
    with torch.no_grad():
        features = module.features(torch.from_numpy(images(2, 16))).relu().numpy()
    close(explanation.cam, np.maximum(np.einsum("k,nkhw->nhw", weights, features), 0))


# Need 21: compiled, scripted and exported models.


def test_need_21_a_compiled_model_is_explained_as_the_one_it_was_made_from():
    module = small_resnet()
    wanted = quiet(gm.Explainer(module), images(), 3)
    compiled = torch.compile(module, backend="eager")
    with torch.no_grad():
        compiled(torch.from_numpy(images()))  # from now on its hooks would not fire
    found = quiet(gm.Explainer(compiled), images(), 3)
    close(found.cam, wanted.cam, SAME)
    assert found.layer == "layer2.1"


class Skipping(nn.Module):
    """Goes around a layer for some inputs."""

    def __init__(self):
        super().__init__()
        self.conv, self.extra, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Linear(6, 4)
        self.skip = False

    def forward(self, x):
        x = self.conv(x).relu()
        return self.head((x if self.skip else self.extra(x)).mean((2, 3)))


def test_need_21_a_layer_that_did_not_fire_raises_and_reuses_nothing():
    module = seeded(Skipping)
    explainer = gm.Explainer(module, layer="extra")
    quiet(explainer, images(2, 8), 1)
    module.skip = True
    with pytest.raises(LayerNotReachedError, match="'extra' did not run for these inputs"):
        explainer(images(2, 8), 1)


# Need 22: the model exactly as found, and the same map every time.


class Restless(nn.Module):
    """Dropout and batch statistics: another map each time, in training mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout2d(0.5)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu()).mean((2, 3)))


def state(module):
    return (
        copy.deepcopy(module.state_dict()),
        [part.training for part in module.modules()],
        [
            (p.requires_grad, None if p.grad is None else p.grad.clone())
            for p in module.parameters()
        ],
        [len(p._forward_hooks) + len(p._forward_pre_hooks) for p in module.modules()],
        torch.random.get_rng_state(),
    )


def unchanged(before, after):
    flat_before, flat_after = (torch.utils._pytree.tree_leaves(each) for each in (before, after))
    assert len(flat_before) == len(flat_after)
    for one, other in zip(flat_before, flat_after, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


class Failing(gm.ClassScore):
    def score(self, logits, activation):
        raise ZeroDivisionError("in the target")


def test_need_22_the_same_map_every_time_and_the_model_as_found():
    module = seeded(Restless)
    wanted = quiet(gm.Explainer(module), images(4, 16), 2)
    module.train()
    module.norm.eval()  # mixed on purpose: as in fine-tuning
    module.conv.requires_grad_(False)
    module(torch.from_numpy(images(4, 16))).sum().backward()
    before = state(module)
    explainer = gm.Explainer(module)
    for _ in range(3):
        found = quiet(explainer, images(4, 16), 2)
        close(found.cam, wanted.cam, SAME)
        unchanged(before, state(module))
    with pytest.raises(ZeroDivisionError, match="in the target"):
        explainer(images(4, 16), Failing(0))
    unchanged(before, state(module))


# Need 23: outputs that are tuples, dicts or ModelOutput.


class ModelOutput(OrderedDict):
    """As transformers has it: by key and by attribute, None where absent."""

    def __getattr__(self, name):
        return self[name]


def returning(make):
    class Model(TwoBranches):
        def forward(self, x):
            z = super().forward(x)
            return make(z, z.flip(1))

    return seeded(Model)


@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (lambda a, b: (a, b), "0", "1"),
        (lambda a, b: {"out": a, "aux": b}, "out", "aux"),
        (lambda a, b: {"aux": b, "logits": a}, "logits", "aux"),
        (lambda a, b: ModelOutput(loss=None, logits=a, hidden_states=(b,)), "logits",
         "hidden_states.0"),
    ],
)  # fmt: skip
def test_need_23_outputs_of_every_form(make, first, second):
    plain = quiet(gm.Explainer(seeded(TwoBranches)), images(2, 8), [1, 2])
    module = returning(make)
    found = quiet(gm.Explainer(module), images(2, 8), [1, 2])
    assert found.output == first
    close(found.cam, plain.cam, SAME)
    found = quiet(gm.Explainer(module, output=second), images(2, 8), [2, 1])  # of 4, flipped
    assert found.output == second
    close(found.cam, plain.cam, SAME)
    with pytest.raises(TargetError, match="output 'score' was asked for") as caught:
        gm.explain(module, images(2, 8), output="score")
    for name in (first, second):
        assert f"{name} (N, 4)" in str(caught.value)


# Need 24: errors that name the cause.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer": "feature"}, "no layer 'feature'; did you mean 'features'"),
        ({"output": "logit"}, r"output 'logit' was asked for; the model returns output \(N, 4\)"),
        ({"method": "gradcan"}, "did you mean 'gradcam'"),
        ({"backend": "pytorch"}, "no backend is called 'pytorch'; .*did you mean 'torch'"),
        ({"target": 4}, "class 4 was asked for; the output has 4 classes"),
        ({"target": [0, 1, 2]}, "3 targets were given for 2 items"),
        ({"layer": "head"}, "a map needs a layer with a grid"),
    ],
)
def test_need_24_what_is_asked_wrongly_is_said_in_one_line(arguments, words, capsys):
    with pytest.raises(GradcamError, match=words) as caught:
        gm.explain(seeded(TwoBranches), images(2, 8), **arguments)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    gc.collect()
    assert capsys.readouterr().err == ""  # no "Exception ignored in __del__"


def test_need_24_the_models_own_error_comes_through_with_its_traceback():
    module = seeded(TwoBranches)

    def hook(*_):
        raise IndexError("of the model itself")

    module.features.register_forward_hook(hook)
    with pytest.raises(IndexError, match="of the model itself") as caught:
        gm.explain(module, images(2, 8))
    assert caught.traceback[-1].name == "hook"


# Need 25: half precision.


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Of the map's maximum: 11 and 8 bits of precision through some ten layers; float32's border.
    [(torch.float16, 1e-2), (torch.bfloat16, 1e-1), (torch.float64, 1e-5)],
)
def test_need_25_maps_of_other_precisions(dtype, tolerance):
    wanted = quiet(gm.Explainer(small_resnet()), images(), 1)
    assert wanted.cam.any()
    found = quiet(gm.Explainer(small_resnet().to(dtype)), images(), 1)
    for array in (found.cam, found.heatmap, found.logits):
        assert array.dtype == np.float32
    close(found.cam, wanted.cam, tolerance)


@pytest.mark.parametrize("exponent", [-16, -8, 0, 4])
def test_need_25_float16_gradients_do_not_underflow(exponent):
    """The heatmap is the float32 model's, whatever the unit of the score."""

    def scaled(module):
        with torch.no_grad():
            module.fc.weight.mul_(2.0**exponent)
        return module

    wanted = quiet(gm.Explainer(scaled(small_resnet())), images(), 1)
    found = quiet(gm.Explainer(scaled(small_resnet().half())), images(), 1)
    assert found.status == wanted.status
    assert wanted.heatmap.max() == 1
    # Heatmaps lie in [0, 1]; float16's 11 bits through some ten layers, and weights of 2^-16
    # times 0.1 keep 5 of them.
    tolerance = 0.1 if exponent < -8 else 2e-2
    np.testing.assert_allclose(found.heatmap, wanted.heatmap, rtol=0, atol=tolerance)


# Need 27: several devices.


@pytest.fixture
def one_process_group(tmp_path):
    if sys.platform == "win32" or not torch.distributed.is_gloo_available():
        pytest.skip("no gloo in this build of PyTorch")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def test_need_27_data_parallel_and_ddp_are_unwrapped(one_process_group):
    module = small_resnet()
    wanted = quiet(gm.Explainer(module), images(4), [0, 1, 2, 3])
    wrapped = {
        "DataParallel": nn.DataParallel(module),
        "DDP": nn.parallel.DistributedDataParallel(module),
        "both": torch.compile(nn.DataParallel(module), backend="eager"),
    }
    for model in wrapped.values():
        explainer = gm.Explainer(model)
        found = quiet(explainer, images(4), [0, 1, 2, 3])
        assert explainer.model.module is module
        assert len(found) == 4  # never the share of one replica
        close(found.cam, wanted.cam, SAME)
        assert found.layer == "layer2.1"


def test_need_27_weights_without_a_device_are_refused():
    with torch.device("meta"), pytest.raises(UnsupportedError, match="are on the meta device"):
        gm.explain(TwoBranches(), images(2, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_need_27_the_models_own_device_is_used():
    wanted = quiet(gm.Explainer(small_resnet()), images(), 1)
    found = quiet(gm.Explainer(small_resnet().cuda()), images(), 1)
    # Other kernels, TF32 off by default for matrix products and on for convolutions: 10 bits.
    close(found.cam, wanted.cam, 2e-2)
