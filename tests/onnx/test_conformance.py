"""The ten points for the ONNX adapter."""

from typing import ClassVar

import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import numpy as np
import probe_onnx
from onnx import TensorProto, helper, numpy_helper

from gradcam_multi.testing import AdapterConformance, Variant, probe_inputs


class TestOnnx(AdapterConformance):
    backend = "onnx"
    unsupported: ClassVar = {"nested": "an ONNX graph has no modules"}

    def build(self, network):
        return probe_onnx.build(network)

    def snapshot(self, model):
        return model.SerializeToString()

    def variants(self, network):
        proto = self.build(network)
        fixed = onnx.ModelProto()
        fixed.CopyFrom(proto)
        fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
        del fixed.graph.value_info[:]
        fixed.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
        return {
            "bytes": Variant(proto.SerializeToString(), 1e-6, "the same file"),
            "static batch of 3": Variant(fixed, 1e-5, "other kernels for other shapes"),
            "float16": Variant(self._half(proto), 1e-2, "11 bits of precision"),
        }

    @staticmethod
    def _half(proto):
        """Cast the weights and the input to float16, as converters do."""
        half = onnx.ModelProto()
        half.CopyFrom(proto)
        for tensor in half.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                array = numpy_helper.to_array(tensor).astype(np.float16)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        del half.graph.value_info[:]
        for value in (*half.graph.input, *half.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
        onnx.checker.check_model(half)
        return half

    def ignoring_model(self):
        """The score is a mean of the picture; a convolution beside it makes another output."""
        weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
        dense = numpy_helper.from_array(np.ones((3, 5), np.float32), "d")
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["ignored"]),
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "d"], ["score"]),
        ]
        outputs = [("score", ["n", 5]), ("ignored", ["n", 4, 16, 16])]
        graph = helper.make_graph(
            nodes,
            "ignoring",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs],
            [weight, dense],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return model, "ignored", probe_inputs()
