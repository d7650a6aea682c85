"""SavedModels: no layers survive in them, so that their layers are a graph's operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from gradcam_multi.errors import InputError, ModelFileError, UnsupportedError
from gradcam_multi.spec import Inputs, Model
from gradcam_multi_tensorflow.files import first_line
from gradcam_multi_tensorflow.graph import Graph
from gradcam_multi_tensorflow.inputs import Bound, Slot
from gradcam_multi_tensorflow.model import GraphModel

_SIGNATURES = ("serving_default", "serve")
_CALL = re.compile(r"^(?:(?:Stateful)?PartitionedCall(?:_\d+)?/)+")


def load_folder(folder: str) -> Model:
    """Load a SavedModel folder. Raises ModelFileError where it is damaged."""
    try:
        loaded = tf.saved_model.load(folder)
    except Exception as error:  # TensorFlow raises nearly anything here
        raise ModelFileError(
            f"{folder!r} cannot be read as a SavedModel ({first_line(error)}); export it again "
            "with model.export(folder)"
        ) from error
    return SavedModel(loaded, f"the SavedModel {folder!r}")


class SavedModel(GraphModel):
    """A SavedModel's signature for serving; see `gradcam_multi.spec.Model`.

    Layers have the names of its operations, without the calls of functions around them. Its
    variables are read when a trace runs.
    """

    def __init__(self, loaded: Any, title: str) -> None:
        self._loaded = loaded  # holds the variables that the function captures by handle
        self._title = title
        self._function = _signature(loaded, title)
        slots = _slots(self._function)
        super().__init__((slots, _structure(slots)))

    def _trace(self, bound: Bound, batch: int | None) -> Graph:
        function, kept = self._function, {}
        inlined = _inlined(function, self._title)
        fed = _fed(function)
        held = function.inputs[len(fed) :]

        def run(*tensors: tf.Tensor) -> Any:
            here = tf.compat.v1.get_default_graph()
            given = {inner.name: tensor for inner, tensor in zip(fed, tensors, strict=True)}
            given |= {
                inner.name: here.capture(outer)
                for outer, inner in zip(function.captured_inputs, held, strict=True)
            }
            results = tf.graph_util.import_graph_def(
                inlined, given, [tensor.name for tensor in function.outputs], name=""
            )
            names = _output_names(function)
            kept["inputs"] = dict(zip(bound.tensors, tensors, strict=True))
            kept["outputs"] = dict(zip(names, results, strict=True))
            return results

        slots = self._declared[0] if self._declared else ()
        specs = [tf.TensorSpec(slot.shape, slot.dtype) for slot in slots]
        traced = tf.function(run, autograph=False).get_concrete_function(*specs)
        outputs = {
            name: tensor
            for name, tensor in kept["outputs"].items()
            if tensor.dtype.is_floating or tensor.dtype.is_integer
        }
        return Graph(traced, [], kept["inputs"], outputs, _short)

    def _bind(self, inputs: Inputs) -> Bound:
        bound = super()._bind(inputs)
        for slot in self._declared[0] if self._declared else ():
            if slot.shape[0] not in (None, bound.batch):
                raise InputError(
                    f"input {slot.name!r} was given a batch of {bound.batch}; {self._title} takes "
                    f"{slot.shape[0]} items at a time: give as many, or set batch_size"
                )
        return bound

    def _exists(self, name: str) -> bool:
        return False  # all operations of a graph run


def _short(op: tf.Operation) -> str:
    """Name an operation without the calls of functions that it was inlined from."""
    name: str = _CALL.sub("", op.name)
    return name


def _signature(loaded: Any, title: str) -> Any:
    signatures = dict(loaded.signatures)
    for name in _SIGNATURES:
        if name in signatures:
            return signatures[name]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    functions = [
        function
        for attribute in ("serve", "__call__", "call")
        for function in getattr(getattr(loaded, attribute, None), "concrete_functions", ())
        if _takes_tensors_only(function)
    ]
    if functions and not signatures:
        return functions[0]
    raise UnsupportedError(
        f"{title} has {f'the signatures {sorted(signatures)}' if signatures else 'no signature'} "
        "and none of them is called serving_default; save it with "
        "tf.saved_model.save(model, folder, signatures=...)"
    )


def _takes_tensors_only(function: Any) -> bool:
    args, kwargs = function.structured_input_signature
    given = [*args, *kwargs.values()]
    flags = [value for value in given if value is False or value is None]  # training, mask
    return all(isinstance(value, tf.TensorSpec) for value in given if value not in flags)


def _fed(function: Any) -> Sequence[tf.Tensor]:
    count = len(function.inputs) - len(function.captured_inputs)
    return tuple(function.inputs[:count])


def _slots(function: Any) -> tuple[Slot, ...]:
    return tuple(
        Slot(tensor.op.name, tuple(tensor.shape.as_list()), tensor.dtype.name)
        for tensor in _fed(function)
    )


def _structure(slots: tuple[Slot, ...]) -> Any:
    return 0 if len(slots) == 1 else list(range(len(slots)))


def _output_names(function: Any) -> list[str]:
    structured, count = function.structured_outputs, len(function.outputs)
    if isinstance(structured, dict) and len(structured) == count:
        return sorted(structured)  # the order in which they are flattened
    return ["output"] if count == 1 else [f"output_{place}" for place in range(count)]


def _inlined(function: Any, title: str) -> Any:
    """Return the function's graph with every call of another function inlined."""
    # Not public: the public way, convert_variables_to_constants_v2, copies all weights as well.
    from tensorflow.python.framework import convert_to_constants

    try:
        return convert_to_constants._run_inline_graph_optimization(function, False, False)
    except Exception as error:
        raise UnsupportedError(
            f"{title} cannot be taken apart ({first_line(error)}); open the Keras model it was "
            "exported from, as an object or as a .keras file"
        ) from error
