"""Damages small ONNX models at random and explains them: run in a process of its own.

`python fuzz_onnx.py SEED SECONDS` prints how many ended how; it ends with an error at the first
outcome that is neither an explanation nor an error of gradcam_multi, and names the mutation.
"""

import faulthandler
import json
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
_EXTREME = (0, 1, -1, 2, 3, 7, 16, 99, -3, 1 << 31, -(1 << 31), 1 << 40, 1 << 62, -(1 << 63))
_STRINGS = (
    "",
    "x",
    "y",
    "c",
    "w",
    "Conv",
    "Relu",
    "Loop",
    "If",
    "ai.onnx",
    "com.microsoft",
    "é",
    "N",
)
_OPERATORS = (
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "ConstantOfShape",
    "Conv", "ConvTranspose", "CumSum", "DepthToSpace", "Div", "Einsum", "Expand", "Flatten",
    "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "GRU", "If",
    "InstanceNormalization", "LRN", "LSTM", "LayerNormalization", "Loop", "LpPool", "MatMul", "Max",
    "MaxPool", "MaxUnpool", "Mod", "Mul", "NonMaxSuppression", "NonZero", "OneHot", "Pad", "Pow",
    "QLinearConv", "Range", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Resize", "RoiAlign",
    "Scan", "ScatterElements", "ScatterND", "Shape", "Slice", "Softmax", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "TopK", "Transpose", "Unique", "Unsqueeze", "Upsample", "Where", "Xor",
)  # fmt: skip


def _model(
    nodes: list[onnx.NodeProto], weights: dict[str, Any], opset: int = 18,
    shape: tuple[Any, ...] = ("N", 3, 6, 6), **more: Any,
) -> onnx.ModelProto:  # fmt: skip
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "small", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)


def seeds() -> dict[str, onnx.ModelProto]:
    """Small models, each of other operators and structures."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    classifier = _model(
        [
            node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
            node("BatchNormalization", ["c", "s", "s", "b", "s"], ["n"]),
            node("Relu", ["n"], ["a"]),
            node("MaxPool", ["a"], ["m"], kernel_shape=[2, 2]),
            node("GlobalAveragePool", ["m"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "d"], ["l"], transB=1, alpha=0.5),
            node("Softmax", ["l"], ["y"], axis=1),
        ],
        {"w": floats(2, 3, 3, 3), "b": floats(2), "s": np.abs(floats(2)), "d": floats(3, 2)},
    )
    old = _model(
        [
            node("Conv", ["x", "w"], ["c"], auto_pad="SAME_UPPER"),
            node("Upsample", ["c"], ["u"], scales=[1.0, 1.0, 2.0, 2.0]),
            node("AveragePool", ["u"], ["p"], kernel_shape=[12, 12]),
            node("Reshape", ["p", "t"], ["r"]),
            node("Dropout", ["r"], ["d", "mask"]),
            node("Softmax", ["d"], ["y"]),
        ],
        {"w": floats(2, 3, 3, 3), "t": [0, -1]}, 7, (2, 3, 6, 6),
    )  # fmt: skip
    for tensor in old.graph.initializer:
        kind = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        old.graph.input.append(kind)
    shaped = _model(
        [
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "i"], ["n"]),
            node("Concat", ["n", "k"], ["t"], axis=0),
            node("Conv", ["x", "w"], ["c"], dilations=[2, 2]),
            node("Pad", ["c", "p"], ["q"], mode="reflect"),
            node("Resize", ["q", "", "z"], ["u"], mode="linear"),
            node("Slice", ["u", "b", "e", "v"], ["l"]),
            node("Transpose", ["l"], ["o"], perm=[0, 2, 3, 1]),
            node("ReduceMean", ["o", "r"], ["g"], keepdims=0),
            node("ConstantOfShape", ["h"], ["ones"]),
            node("Div", ["h", "h"], ["one"]),
            node("Tile", ["ones", "one"], ["tiled"]),
            node("Cast", ["tiled"], ["cast"], to=1),
            node("MatMul", ["g", "cast"], ["j"]),
            node("Reshape", ["j", "t"], ["y"]),
        ],
        {
            "w": floats(2, 3, 2, 2), "i": [0], "k": [-1], "p": [0, 0, 1, 1, 0, 0, 1, 1],
            "z": np.array([1, 1, 2, 2], np.float32), "b": [1, 1], "e": [5, 9], "v": [2, 3],
            "r": [1, 2], "h": [2, 2],
        },
    )  # fmt: skip
    tokens = _model(
        [
            node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
            node("Reshape", ["c", "t"], ["r"]),
            node("Transpose", ["r"], ["q"], perm=[0, 2, 1]),
            node("LayerNormalization", ["q", "s"], ["n"]),
            node("Einsum", ["n", "n"], ["e"], equation="bij,bkj->bik"),
            node("Softmax", ["e"], ["p"], axis=-1),
            node("MatMul", ["p", "n"], ["m"]),
            node("Split", ["m"], ["one", "two"], axis=2, num_outputs=2),
            node("Mul", ["one", "two"], ["g"]),
            node("ReduceSum", ["g", "v"], ["y"], keepdims=0),
        ],
        {"w": floats(4, 3, 2, 2), "t": [0, 4, -1], "s": floats(4), "v": [1]},
    )
    then = helper.make_graph(
        [node("Relu", ["c"], ["then"])], "then", [],
        [helper.make_tensor_value_info("then", TensorProto.FLOAT, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [node("Neg", ["c"], ["other"])], "other", [],
        [helper.make_tensor_value_info("other", TensorProto.FLOAT, None)],
    )  # fmt: skip
    branches = _model(
        [
            node("Twice", ["x"], ["t"], domain="own"),
            node("ConvTranspose", ["t", "w"], ["c"], strides=[2, 2], output_padding=[1, 1]),
            node("If", ["yes"], ["a"], then_branch=then, else_branch=other),
            node("QuantizeLinear", ["a", "s", "z"], ["q"]),
            node("DequantizeLinear", ["q", "s", "z"], ["d"]),
            node("TopK", ["d", "k"], ["v", "i"], axis=3),
            node("Where", ["yes", "v", "v"], ["u"]),
            node("ReduceMax", ["u"], ["y"], keepdims=1),
        ],
        {
            "w": floats(3, 2, 2, 2), "yes": True, "s": np.float32(0.1), "z": np.uint8(3), "k": [2],
        },
        functions=[
            helper.make_function(
                "own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])],
                [helper.make_opsetid("", 18)],
            )
        ],
    )  # fmt: skip
    return {
        "classifier": classifier, "old": old, "shaped": shaped, "tokens": tokens,
        "branches": branches,
    }  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a model with one or a few changes, of bytes or of its structure."""
    kind = rng.random()
    if kind < 0.25:
        return _flipped(data, rng)
    if kind < 0.3:
        return data[: rng.randrange(len(data))]
    if kind < 0.35:
        at, start = rng.randrange(len(data)), rng.randrange(len(data))
        return data[:at] + data[start : start + rng.randrange(1, 60)] + data[at:]
    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(model, rng)
    return bytes(model.SerializePartialToString())


def _flipped(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def _change(message: Any, rng: random.Random) -> None:
    """Walk down to some field and change it."""
    for _ in range(20):
        fields = [f for f, _ in message.ListFields()]
        if not fields or rng.random() < 0.03:
            fields = list(message.DESCRIPTOR.fields)
        field = rng.choice(fields)
        value = getattr(message, field.name)
        repeated = field.is_repeated
        if field.message_type is None:
            _change_scalar(message, field, value, repeated, rng)
            return
        if repeated and (not value or rng.random() < 0.12):
            _change_list(value, rng)
            return
        if not repeated and rng.random() < 0.04:
            message.ClearField(field.name)
            return
        message = rng.choice(value) if repeated else value


def _change_list(items: Any, rng: random.Random) -> None:
    if not items:
        items.add()
        return
    kind, place = rng.randrange(4), rng.randrange(len(items))
    if kind == 0:
        del items[place]
    elif kind == 1:
        items.add().CopyFrom(items[place])
    elif kind == 2:
        one, other = items[place], items[rng.randrange(len(items))]
        kept = type(one)()
        kept.CopyFrom(one)
        one.CopyFrom(other)
        other.CopyFrom(kept)
    else:
        items.add()


def _change_scalar(
    message: Any, field: Any, value: Any, repeated: bool, rng: random.Random
) -> None:
    new = _scalar(field, rng)
    if field.name == "op_type":
        new = rng.choice(_OPERATORS)
    if field.name == "raw_data" and len(value) >= 8 and rng.random() < 0.7:
        # Mostly shapes and indices: other numbers rather than other lengths.
        count = len(value) // 8
        numbers = np.frombuffer(value[: count * 8], np.int64).copy()
        numbers[rng.randrange(count)] = rng.choice(_EXTREME)
        new = numbers.tobytes() + value[count * 8 :]
    try:
        if not repeated:
            setattr(message, field.name, new)
        elif not value or rng.random() < 0.2:
            value.append(new)
        elif rng.random() < 0.3:
            del value[rng.randrange(len(value))]
        else:
            value[rng.randrange(len(value))] = new
    except (ValueError, TypeError):  # out of the field's range
        pass


def _scalar(field: Any, rng: random.Random) -> Any:
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice((0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-40))
    if field.cpp_type == field.CPPTYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if field.cpp_type == field.CPPTYPE_STRING:
        text = rng.choice(_STRINGS)
        return text.encode() if field.type == field.TYPE_BYTES else text
    return rng.choice(_EXTREME)


def explain(data: bytes) -> str:
    """Open, list, run and differentiate a model; return how that ended."""
    from gradcam_multi_onnx import plugin

    from gradcam_multi.errors import GradcamError

    try:
        model = plugin.gradcam_multi_open(data)
        assert model is not None
        layers = model.layers()
        spec = model.inputs[0]
        shape = [2 if n is None else n for n in spec.shape]
        if np.prod(shape, dtype=float) > 1e6:
            return "large"
        feeds = {
            each.name: np.ones([2 if n is None else n for n in each.shape], np.float32).astype(
                each.dtype if each.dtype != "object" else np.float32
            )
            for each in model.inputs
        }
        chosen = [layer.name for layer in layers if layer.spatial][:1] or [spec.name]
        with model.trace(feeds, chosen) as trace:
            cotangents = {name: np.ones_like(a) for name, a in trace.logits.items()}
            trace.vjp(cotangents)
        return "explained"
    except GradcamError as error:
        message = str(error)
        ending = type(error).__name__
    assert "\n" not in message, message
    return ending


def main(seed: int, seconds: float) -> None:
    """Damage and explain models until the time is over."""
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    models = {name: model.SerializeToString() for name, model in seeds().items()}
    for name, data in models.items():
        assert (ending := explain(data)) == "explained", f"{name}: {ending}"
    outcomes: Counter[str] = Counter()
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        name = rng.choice(list(models))
        data = mutated(models[name], rng)
        # A crash leaves this file's last content as the culprit.
        with open(sys.argv[3], "wb") as file:
            file.write(data)
        faulthandler.dump_traceback_later(20, exit=True)
        try:
            outcomes[explain(data)] += 1
        except BaseException:
            print(f"mutation {number} of {name!r}, seed {seed}", file=sys.stderr)
            traceback.print_exc()
            raise SystemExit(1) from None
        finally:
            faulthandler.cancel_dump_traceback_later()
        number += 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    import resource

    faulthandler.enable()
    # What asks for absurd amounts of memory fails here rather than taking the machine's.
    resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30))
    main(int(sys.argv[1]), float(sys.argv[2]))
