"""Files of weights: every form that training programs write, loaded whole or not at all."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from architectures_torch import seeded, small_resnet
from gradcam_multi_torch import weights
from gradcam_multi_torch.plugin import gradcam_multi_load_weights as load_hook
from torch import nn

from gradcam_multi.errors import MissingExtraError, ModelFileError
from gradcam_multi.plugins import installed


def tiny(classes=3):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(classes)
    )


def built(seed, classes=3):
    module = seeded(tiny, classes, seed=seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module(torch.zeros(1, 3, 8, 8))
    return module


def load(module, path, trust=False):
    installed().load_weights(module, str(path), trust)


def same(module, other):
    state = other.state_dict()
    assert module.state_dict().keys() == state.keys()
    return all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 7, "optimizer": {"state": {}}},
        lambda state: {"model": state, "args": None},
        lambda state: {"epoch": 1, "model_state_dict": state},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"state_dict": {f"model.{name}": t for name, t in state.items()}},
        lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
        lambda state: {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")},
    ],
)
def test_every_form_of_a_checkpoint(wrap, tmp_path):
    source, target = built(1), built(0)
    assert not same(target, source)
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    load(target, tmp_path / "w.pth")
    assert same(target, source)


def test_safetensors(tmp_path, monkeypatch):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    source, target = built(1), built(0)
    safetensors.save_file(source.state_dict(), tmp_path / "w.safetensors")
    load(target, tmp_path / "w.safetensors")
    assert same(target, source)
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelFileError, match="SafetensorError"):
        load(target, tmp_path / "bad.safetensors")
    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install safetensors"):
        load(target, tmp_path / "w.safetensors")


def test_wrapped_modules_lazy_ones_and_the_meta_device(tmp_path):
    source = built(1)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    parallel, lazy = nn.DataParallel(built(0)), tiny()
    with torch.device("meta"):
        meta = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
    for module in (parallel, lazy, meta):
        load(module, tmp_path / "w.pth")
    assert same(parallel.module, source)
    assert same(lazy, source)
    assert same(meta, source)


def _renamed(state):
    return {name.replace("0.weight", "O.weight"): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_renamed, "missing 1: 0.weight; did you mean 'O.weight'.; not in the model 1: O.weight"),
        (lambda state: {**state, "aux.bias": state["0.bias"]}, "not in the model 1: aux.bias"),
        (lambda state: {k: v for k, v in state.items() if k[0] == "1"}, "missing 4: .*and 1 more"),
        (
            lambda _: built(1, classes=5).state_dict(),
            r"of another shape 2: 3.weight is \(5, 144\) in the file and \(3, 144\) in the model",
        ),
        (lambda state: list(state.values()), "holds a list, and no weights by name"),
        (lambda state: {"epoch": 3}, "with the keys 1: epoch, and no weights by name"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(change, words, tmp_path):
    torch.save(change(built(1).state_dict()), tmp_path / "w.pth")
    target, untouched = built(0), built(0)
    with pytest.raises(ModelFileError, match=words) as caught:
        load(target, tmp_path / "w.pth")
    assert "\n" not in str(caught.value)
    assert same(target, untouched)


class Evil:
    ran = False

    def __reduce__(self):
        return _mark, ()


def _mark():
    Evil.ran = True
    return OrderedDict()


def test_a_pickle_is_not_unpickled_without_trust(tmp_path):
    source, target = built(1), built(0)
    torch.save({"state_dict": source.state_dict(), "note": Evil()}, tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match=r"it asks for \S*_mark\), and unpickling runs code"):
        load(target, tmp_path / "w.pth")
    assert not Evil.ran
    assert not same(target, source)
    load(target, tmp_path / "w.pth", trust=True)
    assert Evil.ran
    assert same(target, source)
    Evil.ran = False


def test_a_whole_pickled_module_gives_its_weights_to_who_trusts_it(tmp_path):
    source, target = small_resnet(), seeded(lambda: small_resnet(), seed=3)
    torch.save(source, tmp_path / "w.pt")
    with pytest.raises(ModelFileError, match=r"it asks for architectures_torch\.ResNet"):
        load(target, tmp_path / "w.pt")
    load(target, tmp_path / "w.pt", trust=True)
    assert same(target, source)


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04 and no more"])
@pytest.mark.parametrize("trust", [False, True])
def test_damaged_files(content, trust, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"w\.pth"):
        load(built(0), tmp_path / "w.pth", trust)


def test_absent_files_and_other_models(tmp_path):
    with pytest.raises(ModelFileError, match="it is not there; check the path"):
        load(built(0), tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match="a folder, not a file"):
        load(built(0), tmp_path)
    assert load_hook(model=np.zeros(3), path="w.pth", trust=False) is None
