"""What every adapter must hold, for this one."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from architectures_torch import ARCHITECTURES, seeded, small_resnet
from gradcam_multi_torch.model import open_module
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gradcam_multi.errors import GradcamError, LayerNotOnPathError, UnsupportedError

LAYER = "layer2.1"


def images(count=2, side=64, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32)


def gradient(model, inputs, layer=LAYER, target=3):
    with model.trace(inputs, [layer]) as trace:
        cotangent = np.zeros_like(trace.logits["output"])
        cotangent[:, target] = 1
        return trace.activations[0], trace.vjp({"output": cotangent})[0]


def state(module):
    return {
        "training": [part.training for part in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "grad": [
            None if p.grad is None else (id(p.grad), p.grad.sum()) for p in module.parameters()
        ],
        "hooks": [
            (list(p._forward_hooks.items()), list(p._forward_pre_hooks.items()), p._backward_hooks)
            for p in module.modules()
        ],
        "weights": [
            (id(t), t._version, t.sum()) for t in module.state_dict(keep_vars=True).values()
        ],
        "modules": [(name, id(part)) for name, part in module.named_modules()],
    }


def test_accelerated_is_what_has_weights_elsewhere(monkeypatch):
    model = open_module(small_resnet())
    assert model.accelerated is False
    elsewhere = nn.Parameter(torch.empty(1, device="meta"))  # as on a GPU, of which there is none
    monkeypatch.setattr(model.module, "parameters", lambda: iter([elsewhere]))
    assert model.accelerated is True


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_items_of_a_batch_are_independent(name):
    build, layer = ARCHITECTURES[name]
    model, inputs = open_module(build()), images(3)
    together = gradient(model, inputs, layer)
    for item in range(3):
        alone = gradient(model, inputs[item : item + 1], layer)
        for whole, part in zip(together, alone, strict=True):
            # Convolutions of another batch size may sum in another order: float32 rounding.
            np.testing.assert_allclose(
                whole[item : item + 1], part, rtol=0, atol=2e-5 * np.abs(whole).max()
            )


class Fault(Exception):
    pass


@pytest.mark.parametrize("fails", [None, "forward", "body", "layer", "output"])
def test_the_model_is_left_as_found(fails):
    module = small_resnet()
    module.train()
    module.layer1.eval()
    module.conv1.requires_grad_(False)
    module(torch.randn(2, 3, 64, 64)).sum().backward()
    module.layer2.register_forward_hook(lambda *_: None)
    model, inputs = open_module(module), images()
    model.layers(inputs)
    before, grad_mode = state(module), torch.is_grad_enabled()
    if fails == "forward":
        handle = module.layer2[1].conv3.register_forward_hook(_raise)
    try:
        with model.trace(inputs, ["nothing" if fails == "layer" else LAYER]) as trace:
            assert not any(part.training for part in module.modules())
            name = "wrong" if fails == "output" else "output"
            trace.vjp({name: np.ones_like(trace.logits["output"])})
            if fails == "body":
                raise Fault
    except (Fault, GradcamError):
        assert fails
    else:
        assert not fails
    if fails == "forward":
        handle.remove()
    assert state(module) == before
    assert torch.is_grad_enabled() is grad_mode


def _raise(*_):
    raise Fault


def test_a_fault_while_recording_leaves_no_hook():
    module = small_resnet()
    handle = module.layer2.register_forward_hook(_raise)
    before = state(module)
    with pytest.raises(Fault):
        open_module(module).layers(images())
    assert state(module) == before
    handle.remove()


def test_inputs_are_left_as_found():
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3), nn.Flatten()).eval()
    array, tensor = images(1, 8), torch.from_numpy(images(1, 8))
    tensor.requires_grad_()
    copy = array.copy()
    for inputs in (array, tensor):
        with open_module(module).trace(inputs, ["1"]) as trace:
            trace.vjp({"output": np.ones_like(trace.logits["output"])})
            trace.replay("1", trace.activations[0])
    np.testing.assert_array_equal(array, copy)
    np.testing.assert_array_equal(tensor.detach().numpy(), copy)
    assert tensor.grad is None


@pytest.mark.parametrize("caller", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_models_and_any_caller(caller, frozen):
    module, inputs = small_resnet(), images()
    expected = gradient(open_module(module), inputs)
    module.requires_grad_(not frozen)
    with caller():
        actual = gradient(open_module(module), torch.from_numpy(inputs) * 1)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Units in the last place of the format, added up over some ten operations.
    [(torch.float64, 1e-5), (torch.bfloat16, 1e-1), (torch.float16, 1e-2)],
)
def test_other_precisions(dtype, tolerance):
    inputs = images()
    expected = gradient(open_module(small_resnet()), inputs)
    actual = gradient(open_module(small_resnet().to(dtype)), inputs)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())


def test_autocast():
    inputs, model = images(), open_module(small_resnet())
    expected = gradient(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = gradient(model, inputs)
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=0.1 * np.abs(other).max())


@pytest.mark.parametrize("exponent", [-20, 0, 10])
def test_float16_gradients_neither_underflow_nor_overflow(exponent):
    """Weights of 2^-20 make gradients of 1e-8, below float16's smallest number, 6e-8."""
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5, bias=False)
    )
    with torch.no_grad():
        module[3].weight.copy_(torch.arange(1.0, 21).reshape(5, 4) * 2.0**exponent)
    _, actual = gradient(open_module(module.half()), images(1, 8), "0")
    expected = module[3].weight[3].float().detach().numpy() / 36
    # The mean divides in float16: its 11 bits, rounded once or twice.
    np.testing.assert_allclose(actual[0, :, 0, 0], expected, rtol=2e-3)


def test_float16_of_many_magnitudes_of_cotangents():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).half()
    model = open_module(module)
    with model.trace(images(1, 8), ["0"]) as trace:
        results = [
            trace.vjp({"output": np.full((1, 5), scale, np.float32)})[0] / scale
            for scale in (1e-20, 1e-6, 1, 1e6, 1e20)
        ]
    for result in results:
        # Scales that are no powers of two round once more: half a unit of 11 bits each.
        np.testing.assert_allclose(result, results[2], rtol=5e-3, atol=1e-5)


def test_eight_threads_give_what_one_gives():
    """Threads enter while others are between entry and exit, on a model found in train mode."""
    module = small_resnet()
    module.train()
    module.layer1.eval()
    before = state(module)
    model, count = open_module(module), 8
    batches = [images(1 + item % 2, seed=item) for item in range(count)]
    names = [LAYER, "layer1.0", "layer2.0.relu#2", "layer1.0.add"]
    layers = [names[item % len(names)] for item in range(count)]
    serial = [gradient(model, *pair) for pair in zip(batches, layers, strict=True)]
    ready = threading.Barrier(count)

    def work(item):
        ready.wait()
        return [gradient(model, batches[item], layers[item]) for _ in range(12)]

    with ThreadPoolExecutor(count) as pool:
        found = list(pool.map(work, range(count)))
    for item in range(count):
        for result in found[item]:
            for one, other in zip(result, serial[item], strict=True):
                # The same operations: only their split over threads, and so sums, may differ.
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * np.abs(other).max())
    assert state(module) == before


def test_runs_that_share_a_part_do_not_disturb_each_other():
    shared = nn.Dropout(0.5)
    one = nn.Sequential(nn.Conv2d(3, 4, 3), shared, nn.Flatten())
    two = nn.Sequential(shared, nn.Flatten())
    first, second = open_module(one), open_module(two)
    outer = first.trace(images(1, 8), ["0"])
    with second.trace(images(1, 8), []):
        outer.__enter__()
    assert not shared.training  # the other run has not ended
    assert two.training
    outer.__exit__(None, None, None)
    assert shared.training
    assert one.training


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = nn.functional.relu(self.conv(x), inplace=True)
        return x.mean((2, 3)).softmax(1)


def test_memory_is_flat():
    """Every tensor that 300 calls made is gone, without waiting for the garbage collector."""
    model, inputs = open_module(InPlace()), images(1, 8)
    gradient(model, inputs, "relu")
    gc.collect()
    before = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
    gc.disable()
    try:
        for _ in range(300):
            gradient(model, inputs, "relu")
        after = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
    finally:
        gc.enable()
    assert after <= before


def test_nothing_is_recorded_before_the_layer():
    module, seen = small_resnet(), []
    for name, part in module.named_modules():
        part.register_forward_hook(
            lambda _m, _a, output, name=name: seen.append((name, output.requires_grad))
        )
    model = open_module(module)
    model.layers(images())
    seen.clear()
    gradient(model, images(), "layer2.0")
    # The user's hooks see what the trace hands on; the block's result is its third ReLU's.
    first = seen.index(("layer2.0", True)) - 1
    assert seen[first] == ("layer2.0.relu", True)
    assert not any(graph for _, graph in seen[:first])
    assert all(graph for _, graph in seen[first:])
    assert len(seen) - first == 16  # ReLU and block, the next block's ten, the stage, head's three


def test_no_parameter_is_differentiated():
    """Only the nodes on the way from the logits to the layer run."""
    module = small_resnet()
    module.fc.weight.register_hook(_raise)
    gradient(open_module(module), images())


class Switched(nn.Module):
    """A backbone without gradients and a head with them, as in fine-tuning."""

    def __init__(self, switch, cut=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.body = nn.Conv2d(4, 4, 3)
        self.head = nn.Linear(4, 10)
        self.switch, self.cut = switch, cut

    def forward(self, x):
        with self.switch():
            x = self.body(self.stem(x).relu())
        x = x.clone() if self.switch is torch.inference_mode else x
        x = x.mean((2, 3))
        return self.head(x.detach() if self.cut else x)


def test_a_model_that_switches_the_gradient_off():
    module, plain = seeded(Switched, torch.no_grad), seeded(Switched, torch.enable_grad)
    model = open_module(module)
    for layer in ("body", "stem", "relu"):
        expected = gradient(open_module(plain), images(2, 8), layer)
        for one, other in zip(gradient(model, images(2, 8), layer), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_layers_in_inference_mode_are_refused():
    model = open_module(seeded(Switched, torch.inference_mode))
    with pytest.raises(UnsupportedError, match=r"'body' runs inside torch.inference_mode"):
        gradient(model, images(2, 8), "body")
    assert gradient(model, images(2, 8), "mean")[1].any()


def test_a_layer_that_the_score_does_not_depend_on():
    model = open_module(seeded(Switched, torch.enable_grad, cut=True))
    with pytest.raises(LayerNotOnPathError, match="does not depend on layer 'body'"):
        gradient(model, images(2, 8), "body")


def test_a_trace_that_has_ended():
    with open_module(small_resnet()).trace(images(), [LAYER]) as trace:
        pass
    with pytest.raises(GradcamError, match="the trace has ended"):
        trace.vjp({})


class Overwritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        x = self.conv(x).sigmoid()
        x *= 2
        return x.mean((2, 3))


def test_a_model_whose_gradient_is_overwritten():
    with pytest.raises(UnsupportedError, match="writes in place"):
        gradient(open_module(Overwritten()), images(1, 8), "conv")


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.reentrant = reentrant

    def forward(self, x):
        x = checkpoint(self.body, self.stem(x), use_reentrant=self.reentrant)
        return x.mean((2, 3))


# Checkpointing warns of the run without a graph that tells the layers.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_checkpointing():
    modules = [seeded(Checkpointed, reentrant) for reentrant in (False, True)]
    assert gradient(open_module(modules[0]), images(2, 8), "stem")[1].any()
    with pytest.raises(UnsupportedError, match="use_reentrant=False"):
        gradient(open_module(modules[1]), images(2, 8), "stem")


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        assert len(x) == 5, "five at a time"
        return self.conv(x).mean((2, 3))


def test_a_fixed_batch_size():
    model = open_module(FixedBatch())
    assert gradient(model, images(5, 8), "conv")[1].shape == (5, 4, 6, 6)
    with pytest.raises(AssertionError, match="five at a time"):
        model.layers(images(4, 8))


class Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class OwnMode(nn.Module):
    """Enters a mode of its own before a child and leaves it before a function."""

    def __init__(self):
        super().__init__()
        self.conv, self.tail = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x):
        with Mode():
            x = self.conv(x)
        x = self.tail(x.relu().sigmoid())
        return torch.softmax(x.mean((2, 3)), 1)


@pytest.mark.parametrize("layer", ["conv", "relu", "sigmoid", "tail", "mean"])
@pytest.mark.parametrize("fails", [False, True])
def test_modes_of_the_model_and_of_the_run_stay_in_order(layer, fails):
    module = seeded(OwnMode)
    model, depth = open_module(module), torch._C._len_torch_function_stack()
    model.layers(images(2, 8))
    if fails:
        module.tail.register_forward_hook(_raise)
        with pytest.raises(Fault):
            gradient(model, images(2, 8), layer)
    else:
        assert gradient(model, images(2, 8), layer)[1].any()
    assert torch._C._len_torch_function_stack() == depth
