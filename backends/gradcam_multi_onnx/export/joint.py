"""Forward and gradient in one graph, and a builder for what is put behind them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto, TensorProto

from gradcam_multi_onnx.autodiff.builder import Builder
from gradcam_multi_onnx.autodiff.values import Value
from gradcam_multi_onnx.autodiff.walk import Gradient
from gradcam_multi_onnx.export.half import rounded
from gradcam_multi_onnx.graph import Graph, reads


@dataclass
class Joint:
    """A file in the making: the model's nodes, those of its gradient, and what `builder` writes.

    `value` reads one of the model's values, half precision widened to float32 by a Cast.
    """

    model: onnx.ModelProto
    graph: Graph
    gradient: Gradient
    target: str
    builder: Builder = field(init=False)

    def __post_init__(self) -> None:
        taken = set(self.graph.producer) | set(self.graph.types) | set(self.graph.weights)
        for node in self.gradient.model.graph.node:
            taken.update((*node.input, *node.output))
        self.builder = Builder(frozenset(taken))
        self._wide: dict[str, Value] = {}
        self._casts: list[NodeProto] = []

    def value(self, name: str) -> Value:
        """Return one of the model's values in the precision that gradients are computed in."""
        if name not in self._wide:
            kind = self.graph.type(name)
            assert kind.shape is not None
            wide = kind.widened
            own = name
            if wide.dtype != kind.dtype:
                own = self.builder.fresh("wide")
                self._casts.append(onnx.helper.make_node("Cast", [name], [own], to=wide.dtype))
            value = Value(self.builder, own, wide.dtype, kind.shape)
            if kind.dtype == TensorProto.FLOAT16 and name in self.graph.producer:
                value = rounded(value)
            self._wide[name] = value
        return self._wide[name]

    def differentiate(self, cotangent: Value) -> Value:
        """Write the gradient's nodes, fed with a cotangent; return the target's gradient."""
        body, kind = self.gradient.model.graph, self.graph.type(self.target)
        names = {self.gradient.cotangent: cotangent.name}
        own = {name for node in body.node for name in node.output}
        for name in {name for node in body.node for name in node.input} - own - set(names):
            known = name in self.graph.producer or name in self.graph.weights
            if known or name in {v.name for v in self.graph.inputs}:
                # Constants too: the model holds them, so that no weight is stored twice.
                names[name] = self.value(name).name
        for tensor in body.initializer:
            if tensor.name not in names:
                self.builder.tensors[tensor.name] = tensor
        for node in body.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            for place, name in enumerate(node.input):
                copy.input[place] = names.get(name, name)
            self.builder.nodes.append(copy)
        assert kind.shape is not None
        result = self.gradient.results[self.target]
        return Value(self.builder, result, kind.widened.dtype, kind.shape)

    def name(self, value: Value, name: str) -> onnx.ValueInfoProto:
        """Give a value a name of the file's own; return its description as an output."""
        self.builder.nodes.append(onnx.helper.make_node("Identity", [value.name], [name]))
        return onnx.helper.make_tensor_value_info(name, value.dtype, value.shape)

    def finish(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        defaults: Iterable[TensorProto] = (),
    ) -> onnx.ModelProto:
        """Return the file: the nodes that the outputs need, the weights that those read."""
        model, defaults = onnx.ModelProto(), list(defaults)
        model.ir_version = self.model.ir_version
        model.opset_import.extend(self.model.opset_import)
        model.producer_name = "gradcam_multi"
        own = self.model.graph
        order = [*own.node, *self._casts, *self.builder.nodes]
        wanted, kept = {value.name for value in outputs}, []
        for node in reversed(order):
            if not wanted.isdisjoint(node.output):
                wanted.update(reads(node))
                kept.append(node)
        graph = model.graph
        graph.name = own.name or "explained"
        graph.node.extend(kept[::-1])
        graph.input.extend([*own.input, *inputs])
        graph.output.extend(outputs)
        stored = [t for t in own.initializer if t.name in wanted]
        added = [t for name, t in self.builder.tensors.items() if name in wanted]
        graph.initializer.extend([*stored, *added, *defaults])
        graph.sparse_initializer.extend(own.sparse_initializer)
        made = {name for node in kept for name in node.output} - {v.name for v in outputs}
        graph.value_info.extend(v for v in own.value_info if v.name in made)
        return model
