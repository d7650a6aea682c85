"""ReLU's guided rule in a traced graph, in force only while one gradient is being written.

A gradient of another name is registered with TensorFlow, and the ReLUs of a graph are marked with
it for that long: the attribute is the one that `tf.Graph.gradient_override_map` sets, which cannot
be had afterwards. Gradients that are written before and later are plain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from gradcam_multi_tensorflow.calls import Call
from gradcam_multi_tensorflow.leaky import leaks

_ATTRIBUTE = "_gradient_op_type"
_NAMES = {"Relu": "GradcamMultiGuidedRelu", "Relu6": "GradcamMultiGuidedRelu6"}


@tf.RegisterGradient(_NAMES["Relu"])  # type: ignore[untyped-decorator]  # types without tensorflow
def _relu(op: tf.Operation, gradient: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ReluGrad(gradients=_positive(gradient), features=op.outputs[0])


@tf.RegisterGradient(_NAMES["Relu6"])  # type: ignore[untyped-decorator]  # types without tensorflow
def _relu6(op: tf.Operation, gradient: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.Relu6Grad(gradients=_positive(gradient), features=op.outputs[0])


def _positive(gradient: tf.Tensor) -> tf.Tensor:
    return tf.maximum(gradient, tf.zeros((), gradient.dtype))


def relus(operations: Sequence[tf.Operation], calls: Iterable[Call]) -> list[tf.Operation]:
    """Return the operations of a trace that are ReLU or ReLU6, and no part of a leaky one."""
    inside = {
        place for call in calls if leaks(call.operation) for place in range(call.start, call.end)
    }
    return [
        op
        for place, op in enumerate(operations)
        if op.type in _NAMES and place not in inside and not _hard_sigmoid(op)
    ]


def _hard_sigmoid(op: tf.Operation) -> bool:
    """Whether a ReLU6 is the one in Keras' hard sigmoid, relu6(x + 3) / 6."""
    before, after = op.inputs[0].op, op.outputs[0].consumers()
    return (
        op.type == "Relu6"
        and before.type in ("Add", "AddV2")
        and any(_is_number(source, 3) for source in before.inputs)
        and [user.type for user in after] == ["RealDiv"]
        and _is_number(after[0].inputs[1], 6)
    )


def _is_number(tensor: tf.Tensor, number: float) -> bool:
    value = tf.get_static_value(tensor)
    return value is not None and value.ndim == 0 and float(value) == number


def hidden_relu(graph: Any) -> str | None:
    """Return the name of an operation that calls a function with a ReLU inside, or None.

    A loop, a branch or a function of the user's own has its gradient in a graph of its own.
    """
    whole = graph.as_graph_def()
    library = {f.signature.name: f.node_def for f in whole.library.function}

    def holds(name: str, seen: set[str]) -> bool:
        if name in seen or name not in library:
            return False
        seen.add(name)
        return any(
            node.op in _NAMES or any(holds(other, seen) for other in _called(node.attr))
            for node in library[name]
        )

    found = (n.name for n in whole.node if any(holds(f, set()) for f in _called(n.attr)))
    return next(found, None)


def _called(attributes: Any) -> list[str]:
    values = attributes.values()
    return [v.func.name for v in values if v.HasField("func")] + [
        func.name for v in values for func in v.list.func
    ]


@contextmanager
def guided(operations: Iterable[tf.Operation]) -> Iterator[None]:
    """Have the gradients of these ReLUs written by the guided rule; one thread of a graph only."""
    marked: list[tf.Operation] = []
    try:
        for op in operations:
            value = tf.compat.v1.AttrValue(s=_NAMES[op.type].encode())
            op._set_attr(_ATTRIBUTE, value)  # no public name sets an attribute of an operation
            marked.append(op)
        yield
    finally:
        for op in marked:
            op._clear_attr(_ATTRIBUTE)
