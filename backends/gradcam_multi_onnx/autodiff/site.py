"""What a rule sees: one node of the forward graph, its values, attributes and constants."""

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, NoReturn, Protocol

import onnx
from numpy.typing import NDArray
from onnx import NodeProto

from gradcam_multi_onnx.autodiff.activations import swish
from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.finite import makes_infinity
from gradcam_multi_onnx.autodiff.registry import FreeExtent, Refusal
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.graph import Type
from gradcam_multi_onnx.session import make_session, run


class Forward(Protocol):
    """What rules ask of the graph around a node: the model's, or the parts of one operator."""

    @property
    def producer(self) -> MutableMapping[str, NodeProto]: ...  # noqa: D102
    def opset(self, node: NodeProto) -> int: ...  # noqa: D102
    def type(self, name: str) -> Type: ...  # noqa: D102
    def constant(self, name: str) -> bool: ...  # noqa: D102
    def arrays(self, names: Iterable[str]) -> dict[str, NDArray[Any]]: ...  # noqa: D102
    def model(self, graph: onnx.GraphProto) -> onnx.ModelProto: ...  # noqa: D102


class Site:
    """One node of the forward graph, seen from the builder that writes the gradient.

    `wanted` are the positions of the inputs to which gradients are to flow; `cotangents` holds
    one per result, None where none arrived. `passed` tells whether gradients flow through a value
    that nobody asks for.
    """

    def __init__(
        self, graph: Forward, builder: Builder, node: NodeProto, wanted: frozenset[int],
        cotangents: tuple[Value | None, ...], passed: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self.graph, self.b, self.node = graph, builder, node
        self.wanted, self.cotangents, self._passed = wanted, cotangents, passed
        self.opset = graph.opset(node)
        self._attributes = {a.name: a for a in node.attribute}

    @property
    def x(self) -> Value:
        """The first input."""
        return self.input(0)

    @property
    def y(self) -> Value:
        """The first result."""
        return self._value(self.node.output[0])

    def input(self, place: int) -> Value:
        """Return an input that is present."""
        return self._value(self.node.input[place])

    def has(self, place: int) -> bool:
        """Return whether an input is present."""
        return len(self.node.input) > place and bool(self.node.input[place])

    def result(self, place: int) -> Value:
        """Return one of the node's results."""
        return self._value(self.node.output[place])

    def factor(self, place: int) -> Value:
        """Return an input, computed again from what the gradient reads anyway where it can be.

        That is cheaper than to keep it, but may be rounded otherwise: nothing for comparisons.
        """
        maker = self.graph.producer.get(self.node.input[place])
        gated = None if maker is None else self.gated_by_itself(maker)
        if maker is None or gated is None:
            return self.input(place)
        return swish(self._value(maker.input[gated]))

    def rectified(self, place: int) -> Value | None:
        """Return an input that is a ReLU's result of which nobody asks for the gradient.

        Or what the ReLU is given, where the gradient of that is asked for: it is kept anyway.
        Otherwise a result costs less, since ReLUs are fused into what is before them.
        """
        maker = self.graph.producer.get(self.node.input[place])
        if maker is None or maker.op_type != "Relu" or maker.domain not in ("", "ai.onnx"):
            return None
        before, result = maker.input[0], maker.output[0]
        if not self._passed(result):
            return None
        return self._value(result if self._passed(before) else before)

    def _value(self, name: str) -> Value:
        maker = self.graph.producer.get(name)
        if maker is not None and makes_infinity(maker.op_type) and not self._divided(maker):
            self.b.finite.doubt([name])
        return self.b.source(name, self.graph.type(name))

    def _divided(self, maker: NodeProto) -> bool:
        """Return whether a node divides by a constant without zeros."""
        if maker.op_type != "Div" or not self.graph.constant(maker.input[1]):
            return False
        return bool(self.graph.arrays(maker.input[1:2])[maker.input[1]].all())

    def gated_by_itself(self, node: NodeProto) -> int | None:
        """Return the place of x in x * sigmoid(x), None where a node is no such product.

        Nor where somebody asks for the sigmoid's own gradient.
        """
        if node.op_type != "Mul" or node.domain not in ("", "ai.onnx"):
            return None
        for place, name in enumerate(node.input):
            gate = self.graph.producer.get(node.input[1 - place])
            if gate is None or gate.op_type != "Sigmoid" or gate.domain not in ("", "ai.onnx"):
                continue
            if gate.input[0] == name and self._passed(gate.output[0]):
                return place
        return None

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return an attribute, strings as text, or the default."""
        if name not in self._attributes:
            return default
        value = onnx.helper.get_attribute_value(self._attributes[name])
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, place: int) -> NDArray[Any] | None:
        """Return an input's value where it is the same for every input of the model."""
        name = self.node.input[place]
        return self.graph.arrays([name])[name] if self.graph.constant(name) else None

    def setting(self, name: str, place: int, changed: int) -> list[int] | None:
        """Return integers that are an attribute before opset `changed`, an input from it on."""
        if self.opset < changed:
            value = self.attribute(name)
            return None if value is None else [int(n) for n in value]
        if not self.has(place):
            return None
        array = self.constant(place)
        if array is None:
            self.refuse(f"its {name} depend on the model's input")
        return [int(n) for n in array.reshape(-1)]

    def extents(self, value: Value, axes: Iterable[int]) -> list[int]:
        """Return extents that a rule must know as numbers."""
        found = [value.shape[axis] for axis in axes]
        numbers = [n for n in found if isinstance(n, int)]
        if len(numbers) < len(found):
            raise FreeExtent(f"the shape of {value.name!r} is free")
        return numbers

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        """Return an axis attribute as a number from 0 on."""
        return int(self.attribute(name, default)) % rank

    def evaluate(
        self, feeds: list[NDArray[Any] | None], attributes: dict[str, Any]
    ) -> NDArray[Any]:
        """Run this node's operator on other inputs, None where absent, as its own opset has it."""
        given = {f"input_{place}": a for place, a in enumerate(feeds) if a is not None}
        names = [f"input_{place}" if a is not None else "" for place, a in enumerate(feeds)]
        node = onnx.helper.make_node(
            self.node.op_type, names, ["result"], domain=self.node.domain, **attributes
        )
        inputs = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in given.items()
        ]
        result = onnx.ValueInfoProto(name="result")
        graph = onnx.helper.make_graph([node], "node", inputs, [result])
        session = make_session(self.graph.model(graph).SerializeToString())
        return run(session, given, ["result"])["result"]

    def refuse(self, reason: str) -> NoReturn:
        """Refuse to differentiate this node."""
        raise Refusal(reason)
