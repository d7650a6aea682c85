"""LeGrad on ONNX: fused operators of attention against the same network written out."""

import numpy as np
import pytest
from onnx import helper, numpy_helper
from probe_onnx import build

import gradcam_multi as gm
from gradcam_multi.testing import NETWORKS, inputs_of

# The same sums in float32, in kernels of their own.
TOLERANCE = 1e-5
WIDTH, HEADS = 8, 2


@pytest.fixture(scope="module")
def network():
    return NETWORKS["token"]()


@pytest.fixture(scope="module")
def x(network):
    return inputs_of(network, 3)["image"]


def close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def fused(network, way):
    """The network with each attention as one operator, and nothing else changed."""
    model = build(network)
    graph = model.graph
    for name in ("a", "b"):
        own = f"{name}_attention"
        old = [n for n in graph.node if n.output[0] == own or n.output[0].startswith(f"{own}.")]
        read = [f"{name}_{part}" for part in ("query", "key", "value")]
        place = list(graph.node).index(old[0])
        for node in old:
            graph.node.remove(node)
        for new in reversed(WAYS[way](graph, own, read, network)):
            graph.node.insert(place, new)
    later = way in ("standard", "heads apart")
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 23 if later else 18))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.ir_version = 11
    return model.SerializeToString()


def add(graph, name, array):
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def standard(graph, own, read, network):
    return [helper.make_node("Attention", read, [own], q_num_heads=HEADS, kv_num_heads=HEADS)]


def heads_apart(graph, own, read, network):
    split = add(graph, f"{own}.to", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    merged = add(graph, f"{own}.from", np.array([0, 0, WIDTH], np.int64))
    nodes = []
    for source in read:
        nodes.append(helper.make_node("Reshape", [source, split], [f"{own}.{source}"]))
        turned = f"{own}.{source}.h"
        nodes.append(
            helper.make_node("Transpose", [f"{own}.{source}"], [turned], perm=[0, 2, 1, 3])
        )
    given = [f"{own}.{source}.h" for source in read]
    return [
        *nodes,
        helper.make_node("Attention", given, [f"{own}.y"]),
        helper.make_node("Transpose", [f"{own}.y"], [f"{own}.t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"{own}.t", merged], [own]),
    ]


def runtime(graph, own, read, network):
    return [
        helper.make_node("MultiHeadAttention", read, [own], domain="com.microsoft", num_heads=HEADS)
    ]


def packed(graph, own, read, network):
    """Projections and biases inside of the operator."""
    source = f"{own[0]}_norm1"
    weights = np.concatenate([network.weights[f"{name}.weight"].T for name in read], 1)
    bias = np.concatenate([network.weights[f"{name}.bias"] for name in read])
    given = [source, add(graph, f"{own}.w", weights), add(graph, f"{own}.b", bias)]
    return [helper.make_node("Attention", given, [own], domain="com.microsoft", num_heads=HEADS)]


def biased(graph, own, read, network):
    """The bias is added by the operator: what it reads are the bare products."""
    bare = [f"{name}.product" for name in read]
    bias = np.concatenate([network.weights[f"{name}.bias"] for name in read])
    given = [*bare, add(graph, f"{own}.b", bias)]
    return [
        helper.make_node(
            "MultiHeadAttention", given, [own], domain="com.microsoft", num_heads=HEADS
        )
    ]


def einsum(graph, own, read, network):
    split = add(graph, f"{own}.to", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    merged = add(graph, f"{own}.from", np.array([0, 0, WIDTH], np.int64))
    scale = add(graph, f"{own}.factor", np.float32((WIDTH / HEADS) ** -0.5))
    q, k, v = (f"{own}.{part}" for part in "qkv")
    return [
        *(
            helper.make_node("Reshape", [source, split], [made])
            for source, made in zip(read, (q, k, v), strict=True)
        ),
        helper.make_node("Einsum", [q, k], [f"{own}.s"], equation="bqhd,bkhd->bhqk"),
        helper.make_node("Mul", [f"{own}.s", scale], [f"{own}.z"]),
        helper.make_node("Softmax", [f"{own}.z"], [f"{own}.a"]),
        helper.make_node("Einsum", [v, f"{own}.a"], [f"{own}.o"], equation="bkhd,bhqk->bqhd"),
        helper.make_node("Reshape", [f"{own}.o", merged], [own]),
    ]


WAYS = {
    "standard": standard,
    "heads apart": heads_apart,
    "ONNX Runtime's": runtime,
    "with its bias": biased,
    "with its projections": packed,
    "einsum": einsum,
}


@pytest.mark.parametrize("way", WAYS)
def test_operators_of_attention(network, x, way):
    """Those of ONNX Runtime have no gradient of their own, and none is needed."""
    expected = gm.explain(build(network).SerializeToString(), x, [0, 1, 2], method="legrad")
    found = gm.explain(fused(network, way), x, [0, 1, 2], method="legrad")
    assert found.status == expected.status == ("ok",) * 3
    assert found.cost == expected.cost == 4
    close(found.logits, expected.logits)
    close(found.cam, expected.cam)


def test_a_batch_that_is_fixed(network, x):
    model = build(network)
    expected = gm.explain(model.SerializeToString(), x, 1, method="legrad")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    found = gm.explain(model.SerializeToString(), x, 1, method="legrad")  # 3 of 4, one in vain
    close(found.cam, expected.cam)


def test_what_is_no_softmax_is_refused(network, x):
    model = build(network)
    for node in model.graph.node:
        if node.op_type == "Softmax" and "attention" in node.output[0]:
            node.op_type = "Sigmoid"
            del node.attribute[:]
    with pytest.raises(gm.UnsupportedError, match="rows add up to 1") as error:
        gm.explain(model.SerializeToString(), x, 1, method="legrad")
    assert "\n" not in str(error.value)


def test_a_network_without_attention_is_refused():
    network = NETWORKS["conv"]()
    content = build(network).SerializeToString()
    with pytest.raises(gm.UnsupportedError, match="no block of attention"):
        gm.explain(content, inputs_of(network, 2)["image"], 1, method="legrad")
