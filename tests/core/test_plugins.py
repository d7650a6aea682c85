"""Adapters enter by entry point; a broken one is isolated and shown."""

from importlib.metadata import EntryPoint
from types import ModuleType, SimpleNamespace

import pytest

from gradcam_multi import plugins
from gradcam_multi.errors import UnknownBackendError, UnknownModelError
from gradcam_multi.hooks import hookimpl
from gradcam_multi.plugins import Plugins


def adapter(claimed):
    @hookimpl
    def gradcam_multi_open(model):
        return SimpleNamespace(backend=claimed) if model == claimed else None

    module = ModuleType(claimed)
    module.gradcam_multi_open = gradcam_multi_open
    return module


@pytest.fixture
def found(monkeypatch):
    """Two working adapters and a broken one, as entry points would give them."""

    def entry(name, load):
        return SimpleNamespace(name=name, load=load)

    def broken():
        raise ImportError("no module named 'jaxx'")

    entries = [
        entry("one", lambda: adapter("one")),
        entry("two", lambda: adapter("two")),
        entry("bad", broken),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    return Plugins()


def test_the_first_that_claims_opens(found):
    assert found.names == ["one", "two"]
    assert found.open("two").backend == "two"


def test_a_named_backend_is_asked_alone(found):
    assert found.open("two", "two").backend == "two"
    with pytest.raises(UnknownModelError, match="not claimed by backend 'one'"):
        found.open("two", "one")


def test_a_broken_adapter_is_isolated_and_shown(found):
    cause = r"adapters that failed to load: bad \(ImportError: no module named 'jaxx'\)"
    with pytest.raises(UnknownModelError, match=cause):
        found.open("three")
    with pytest.raises(UnknownBackendError, match=cause):
        found.open("one", "bad")


def test_own_adapters_enter_by_the_same_door():
    group = {entry.name: entry for entry in plugins.entry_points("gradcam_multi")}
    assert {"onnx", "tensorflow", "torch"} <= set(group)
    for name in ("onnx", "tensorflow", "torch"):
        assert isinstance(group[name], EntryPoint)
        assert group[name].value == f"gradcam_multi_{name}.plugin"
    assert {"onnx", "tensorflow", "torch"} <= set(Plugins().names)
    assert not Plugins().broken
