"""Adapters: found by entry point, isolated when broken, asked in turn for a model."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import pluggy

from gradcam_multi import hooks
from gradcam_multi.errors import (
    ExportError,
    UnknownBackendError,
    UnknownModelError,
    UnsupportedError,
    suggest,
)
from gradcam_multi.spec import Exported, ExportOrder, Inputs, Model


def entry_points(group: str) -> Iterable[Any]:
    """Return the entry points of a group."""
    from importlib import metadata  # a third of this package's import time, for one call

    return metadata.entry_points(group=group)


class Plugins:
    """The adapters of one entry-point group."""

    def __init__(self, group: str = hooks.PROJECT) -> None:
        self.manager = pluggy.PluginManager(hooks.PROJECT)
        self.manager.add_hookspecs(hooks)
        self.broken: dict[str, Exception] = {}
        for entry in sorted(entry_points(group), key=lambda entry: entry.name):
            if not self.manager.has_plugin(entry.name):  # the same name twice: the first wins
                self._add(entry.name, entry.load)

    def _add(self, name: str, load: Callable[[], Any]) -> None:
        # A third party's broken adapter must not take the others down: it is kept with its cause
        # and shown when nothing claims a model.
        try:
            self.manager.register(load(), name=name)
        except Exception as error:
            self.broken[name] = error

    @property
    def names(self) -> list[str]:
        """Names of the working adapters, sorted."""
        return sorted(name for name, _ in self.manager.list_name_plugin())

    def _caller(self, hook: str, backend: str | None) -> Callable[..., Any]:
        if backend is None:
            caller: Callable[..., Any] = getattr(self.manager.hook, hook)
            return caller
        if backend not in self.names:
            raise UnknownBackendError(
                f"no backend is called {backend!r}; installed: {', '.join(self.names) or 'none'}"
                f"{suggest(backend, self.names)}{self._broken_note()}"
            )
        others = [plugin for name, plugin in self.manager.list_name_plugin() if name != backend]
        return self.manager.subset_hook_caller(hook, remove_plugins=others)

    def open(self, model: Any, backend: str | None = None, trust: bool = False) -> Model:
        """Open a model with the adapter that claims it, or with the named one only.

        `trust` allows code that a model's file holds to be run.

        Raises UnknownBackendError, UnknownModelError, and what the adapter raises.
        """
        opened: Model | None = self._caller("gradcam_multi_open", backend)(model=model, trust=trust)
        if opened is None:
            asked = repr(str(model)) if isinstance(model, str) else f"a {_class_name(model)}"
            who = f"backend {backend!r}" if backend else f"any of {', '.join(self.names) or 'none'}"
            raise UnknownModelError(
                f"cannot open {asked}: not claimed by {who}; give a torch.nn.Module, a Keras "
                "model or its .keras/.h5 file, or an ONNX model as path, bytes, ModelProto or "
                f"InferenceSession{self._broken_note()}"
            )
        return opened

    def build(self, network: Any, backend: str) -> Any:
        """Have the named adapter build a described network in its framework."""
        return self._caller("gradcam_multi_build", backend)(network=network)

    def load_weights(self, model: Any, path: str, trust: bool = False) -> None:
        """Have the adapter that claims a model object load a file of weights into it.

        Raises UnknownModelError where none claims it, and what the adapter raises.
        """
        hook = self._caller("gradcam_multi_load_weights", None)
        if not hook(model=model, path=path, trust=trust):
            raise UnknownModelError(
                f"weights {path!r} cannot be loaded into a {_class_name(model)}: no adapter claims "
                "it; give a torch.nn.Module or a Keras model"
            )

    def to_onnx(
        self, model: Any, inputs: Inputs, backend: str | None = None, trust: bool = False
    ) -> str | bytes:
        """Have the adapter that claims a model, or the named one, give it as ONNX."""
        found = self._caller("gradcam_multi_to_onnx", backend)(
            model=model, inputs=inputs, trust=trust
        )
        if found is None:
            raise ExportError(
                f"a {_class_name(model)} cannot become ONNX: no adapter gives it as such a file; "
                "export it by its framework and give the .onnx file"
            )
        content: str | bytes = found
        return content

    def reweigh(self, model: Any, change: Callable[[str, Any], Any], trust: bool = False) -> Any:
        """Have the adapter that claims a model copy it with weights as `change` makes them.

        Raises UnsupportedError where none does.
        """
        copy = self._caller("gradcam_multi_reweigh", None)(model=model, change=change, trust=trust)
        if copy is None:
            raise UnsupportedError(
                f"a {_class_name(model)} cannot be copied with other weights: no adapter does it; "
                "give a function `randomise` that builds such a copy"
            )
        return copy

    def export(self, model: str | bytes, order: ExportOrder) -> Exported:
        """Have an adapter build a file that explains an ONNX model."""
        built: Exported | None = self._caller("gradcam_multi_export", None)(
            model=model, order=order
        )
        if built is None:
            raise ExportError(
                "no installed adapter writes explanations as files; "
                'install "gradcam-multi[onnx]"'
                f"{self._broken_note()}"
            )
        return built

    def _broken_note(self) -> str:
        notes = [f"{name} ({type(e).__name__}: {e})" for name, e in sorted(self.broken.items())]
        return f"; adapters that failed to load: {', '.join(notes)}" if notes else ""


def _class_name(obj: Any) -> str:
    cls = type(obj)
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )


@cache
def installed() -> Plugins:
    """Return the adapters installed beside this package, loaded once per process."""
    return Plugins()
