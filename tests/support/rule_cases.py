"""Nodes of every kind, with attributes, shapes and opsets in which exporters write them."""

from typing import Any

import numpy as np
import onnx
from rule_check import Case, case, ints, random

X = random(2, 3, 4)
POSITIVE = random(2, 3, 4, low=0.2, high=3.0)
UNIT = random(2, 3, 4, low=-0.9, high=0.85)
MORE = random(2, 3, 4, low=1.2, high=3.0)
IMAGE = random(2, 4, 7, 6)
WEIGHT = random(6, 4, 3, 3, seed=1)


def elementwise() -> list[Case]:
    cases = [case(op, X) for op in (
        "Abs", "Asinh", "Atan", "Cos", "Cosh", "Erf", "Exp", "Identity", "Mish", "Neg", "Relu",
        "Sigmoid", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "Selu", "HardSwish",
        "LeakyRelu", "Elu", "Celu", "ThresholdedRelu", "HardSigmoid", "Gelu", "Swish",
    ) if op not in ("Gelu", "Swish", "Tan")]  # fmt: skip
    cases += [case(op, POSITIVE) for op in ("Log", "Sqrt", "Reciprocal")]
    cases += [case(op, UNIT) for op in ("Acos", "Asin", "Atanh", "Tan")]
    cases += [
        case("Acosh", MORE),
        case("Gelu", X, opset=20), case("Gelu", X, opset=20, approximate="tanh"),
        case("Swish", X, opset=24), case("Swish", X, opset=24, alpha=1.7),
        case("LeakyRelu", X, alpha=0.3), case("LeakyRelu", X, alpha=-0.3, opset=7),
        case("Elu", X, alpha=0.7), case("Elu", X, alpha=-0.7), case("Celu", X, alpha=0.6),
        case("Selu", X, alpha=1.1, gamma=0.9), case("ThresholdedRelu", X, alpha=0.3),
        case("HardSigmoid", X, alpha=0.4, beta=0.35),
        case("Cast", X, to=onnx.TensorProto.DOUBLE), case("CastLike", X, np.ones(1)),
        case("Clip", X, np.array(-0.51), np.array(0.83)), case("Clip", X, None, np.array(0.83)),
        case("Clip", X, np.array(-0.51)), case("Clip", X, opset=9, min=-0.51, max=0.83),
        case("Clip", X, opset=7, max=0.83), case("Clip", X, opset=9),
        case("Dropout", X, opset=7, ratio=0.5), case("Dropout", X), case("Dropout", X, outputs=2),
        case("Dropout", X, np.array(0.4), np.array(False)),
    ]  # fmt: skip
    row, column = random(3, 1, seed=2), random(4, seed=3)
    for op in ("Add", "Sub", "Mul"):
        cases += [case(op, X, row, wrt=(0, 1)), case(op, column, X, wrt=(0, 1), opset=7)]
    cases += [
        case("Div", X, POSITIVE[0, :1], wrt=(0, 1)), case("Div", column, POSITIVE, wrt=(0, 1)),
        case("Sum", X, row, column, wrt=(0, 1, 2)), case("Mean", X, row, column, wrt=(0, 1, 2)),
        case("Max", X, row, column, wrt=(0, 1, 2)), case("Min", X, row, wrt=(0, 1), opset=8),
        case("PRelu", X, random(3, 1, seed=4), wrt=(0, 1)),
        case("Pow", POSITIVE, np.array([1.7])), case("Pow", X, np.array(2.0)),
        case("Pow", X, np.array(3.0)), case("Pow", X, np.array(1.0)), case("Pow", X, np.array(0.0)),
        case("Pow", POSITIVE, np.array([0.5, -1.0, 2.0, 3.0]), wrt=(0, 1)),
        case("Pow", X, ints(2), opset=13), case("Pow", X, ints(2, 3, 0, 1), opset=13),
        case("Where", X[:, :1] > 0, X, row, wrt=(1, 2)),
    ]  # fmt: skip
    return cases


def convolution() -> list[Case]:
    bias = random(6, seed=5)
    line, volume = random(2, 4, 9), random(1, 2, 5, 4, 6)
    grouped, depthwise = random(6, 2, 3, 2, seed=6), random(8, 1, 3, 3, seed=7)
    cases = [
        case("Conv", IMAGE, WEIGHT), case("Conv", IMAGE, WEIGHT, bias, wrt=(0, 2)),
        case("Conv", IMAGE, WEIGHT, pads=[1, 1, 1, 1]),
        case("Conv", IMAGE, WEIGHT, pads=[0, 0, 2, 2]),
        case("Conv", IMAGE, WEIGHT, pads=[2, 0, 0, 1], strides=[2, 3]),
        case("Conv", IMAGE, WEIGHT, pads=[0, 0, 1, 1], strides=[2, 2]),
        case("Conv", IMAGE, WEIGHT, pads=[4, 3, 3, 3]),  # wider than the kernel reaches
        case("Conv", IMAGE, WEIGHT, strides=[3, 2]),  # neither divides
        case("Conv", IMAGE, WEIGHT, dilations=[2, 1], pads=[1, 0, 2, 1]),
        case("Conv", IMAGE, WEIGHT, dilations=[2, 2], strides=[2, 1], pads=[1, 2, 2, 2]),
        case("Conv", IMAGE, grouped, group=2, pads=[1, 0, 1, 1], opset=7),
        case("Conv", IMAGE, grouped, group=2, strides=[2, 2], kernel_shape=[3, 2]),
        case("Conv", IMAGE, depthwise, group=4, pads=[1, 1, 1, 1]),
        case("Conv", IMAGE, depthwise[:4], group=4, pads=[1, 1, 1, 1]),
        case("Conv", IMAGE, depthwise[:4], group=4, strides=[2, 2]),
        case("Conv", IMAGE, depthwise[:4], group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
        case("Conv", IMAGE, depthwise[:4], group=4, strides=[3, 2], pads=[2, 0, 1, 1]),
        case("Conv", IMAGE, depthwise[:4], group=4, strides=[2, 2], pads=[3, 3, 0, 0]),
        case("Conv", IMAGE, depthwise[:4, :, :1, :1], group=4, strides=[3, 3]),
        case("Conv", IMAGE, depthwise[:4], group=4, strides=[2, 1], dilations=[1, 2]),
        case("Conv", IMAGE, random(5, 4, 1, 1)),
        case("Conv", IMAGE, random(5, 4, 1, 1), strides=[2, 2]),
        case("Conv", line, random(3, 4, 3, seed=8), pads=[0, 2]),
        case("Conv", line, random(3, 4, 4, seed=8), strides=[2], auto_pad="SAME_LOWER"),
        case("Conv", volume, random(3, 2, 3, 2, 3, seed=9), pads=[1, 0, 1, 0, 1, 1]),
        case("Conv", volume, random(3, 2, 3, 2, 3, seed=9), strides=[2, 1, 2], pads=[1, 0, 1,
             0, 1, 1]),
    ]  # fmt: skip
    for automatic in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        cases += [
            case("Conv", IMAGE, random(5, 4, 2, 3, seed=1), auto_pad=automatic),
            case("Conv", IMAGE, random(5, 4, 2, 3, seed=1), auto_pad=automatic, strides=[2, 2]),
            case("Conv", IMAGE, random(5, 4, 4, 3), auto_pad=automatic, strides=[3, 2], opset=7),
        ]
    small = random(2, 4, 3, 4)
    up = random(4, 3, 3, 2, seed=2)
    cases += [
        case("ConvTranspose", small, up), case("ConvTranspose", small, up, random(3), wrt=(0, 2)),
        case("ConvTranspose", small, up, strides=[2, 3], pads=[1, 0, 0, 1]),
        case("ConvTranspose", small, up, strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 0]),
        case("ConvTranspose", small, up, strides=[2, 2], dilations=[2, 1]),
        case("ConvTranspose", small, up, strides=[2, 2], output_shape=[6, 8]),
        case("ConvTranspose", small, up, strides=[2, 2], output_shape=[5, 7],
             auto_pad="SAME_UPPER"),
        case("ConvTranspose", small, up, strides=[2, 2], auto_pad="SAME_LOWER"),
        case("ConvTranspose", small, up, strides=[2, 2], auto_pad="SAME_UPPER"),
        case("ConvTranspose", small, random(4, 3, 2, 2, seed=3), group=2, strides=[2, 2]),
        case("ConvTranspose", small, up, auto_pad="VALID", strides=[2, 1]),
        case("ConvTranspose", random(2, 4, 5), random(4, 2, 3, seed=3), strides=[2], pads=[1, 1]),
    ]  # fmt: skip
    return cases


def pooling() -> list[Case]:
    line, volume = random(2, 3, 9), random(1, 2, 4, 5, 4)
    square = random(2, 4, 6, 6)
    kernels: list[dict[str, Any]] = [
        {"kernel_shape": [2, 2]}, {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
        {"kernel_shape": [2, 4], "auto_pad": "SAME_LOWER", "strides": [1, 2]},
        {"kernel_shape": [2, 2], "auto_pad": "VALID", "strides": [3, 2]},
    ]  # fmt: skip
    cases = [case("MaxPool", IMAGE, **kernel, opset=12) for kernel in kernels]
    cases += [case("AveragePool", IMAGE, **kernel, opset=11) for kernel in kernels]
    cases += [
        case("AveragePool", IMAGE, **kernel, count_include_pad=1, opset=opset)
        for kernel in kernels for opset in (11, 19)
    ]  # fmt: skip
    cases += [
        case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3], strides=[2, 1]),
        case("MaxPool", IMAGE, kernel_shape=[2, 2], opset=7),
        case("MaxPool", IMAGE, kernel_shape=[2, 2], storage_order=1, outputs=2),
        case("MaxPool", line, kernel_shape=[3], strides=[2], pads=[1, 1]),
        case("MaxPool", volume, kernel_shape=[2, 2, 3]),
        case("AveragePool", IMAGE, kernel_shape=[7, 6], opset=7),
        case("AveragePool", square, kernel_shape=[2, 2], strides=[2, 2], opset=7),
        case("AveragePool", square, kernel_shape=[3, 2], strides=[3, 2]),
        case("AveragePool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3], opset=19),
        case("AveragePool", line, kernel_shape=[3], strides=[2], pads=[0, 1]),
        case("AveragePool", volume, kernel_shape=[2, 2, 3], pads=[1, 0, 1, 0, 1, 1]),
        case("GlobalAveragePool", IMAGE), case("GlobalAveragePool", line),
        case("GlobalMaxPool", IMAGE), case("GlobalMaxPool", volume, opset=7),
    ]  # fmt: skip
    return cases


def linear() -> list[Case]:
    a, b = random(3, 4), random(4, 5, seed=1)
    cases = [
        case("Gemm", a.T if ta else a, b.T if tb else b, c, wrt=(0, 1, 2), opset=opset,
             transA=ta, transB=tb, alpha=0.7, beta=1.3)
        for ta in (0, 1) for tb in (0, 1)
        for c, opset in ((random(5), 9), (random(3, 1), 13))
    ]  # fmt: skip
    return [
        *cases, case("Gemm", a, b, random(5), wrt=(0,), opset=7), case("Gemm", a, b, opset=11),
        case("MatMul", a, b, wrt=(0, 1)), case("MatMul", random(2, 3, 4), b, wrt=(0, 1)),
        case("MatMul", random(2, 1, 3, 4), random(5, 4, 2), wrt=(0, 1)),
        case("MatMul", random(4), b, wrt=(0, 1)), case("MatMul", a, random(4), wrt=(0, 1)),
        case("MatMul", random(4), random(4, seed=2), wrt=(0, 1)),
        case("MatMul", random(2, 3, 4), random(4), wrt=(0, 1)),
        case("MatMul", random(4), random(2, 4, 3), wrt=(0, 1), opset=9),
    ]  # fmt: skip


def normalization() -> list[Case]:
    channel = [random(4, low=0.5, high=1.5, seed=s) for s in range(4)]
    cases = [case("BatchNormalization", IMAGE, *channel, opset=opset) for opset in (7, 9, 14, 15)]
    cases += [
        case("BatchNormalization", IMAGE, *channel, epsilon=0.1, momentum=0.8),
        case("BatchNormalization", random(3, 4), *channel),
        case("BatchNormalization", IMAGE, *channel, opset=7, spatial=1),
        case("LayerNormalization", X, random(4, seed=1), random(4, seed=2), wrt=(0, 1, 2)),
        case("LayerNormalization", X, random(3, 4, seed=1), axis=1, epsilon=0.1),
        case("InstanceNormalization", IMAGE, channel[0], channel[1], epsilon=0.1, opset=7),
        case("InstanceNormalization", random(2, 4, 5), channel[0], channel[1]),
        case("LRN", IMAGE, size=3, alpha=0.9, beta=0.6, bias=1.4),
        case("LRN", IMAGE, size=5, alpha=0.5, opset=7),
        case("LRN", IMAGE, size=1),
    ]
    for op in ("Softmax", "LogSoftmax"):
        cases += [
            case(op, X), case(op, X, axis=1), case(op, X, axis=-2), case(op, X, opset=11),
            case(op, X, opset=7, axis=2), case(op, IMAGE[:, :, :2, :2], opset=9, axis=1),
        ]  # fmt: skip
    return cases


def reduction() -> list[Case]:
    cases = []
    for op in ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
               "ReduceSum", "ReduceSumSquare"):  # fmt: skip
        changed = 13 if op == "ReduceSum" else 18
        cases += [
            case(op, X, opset=changed), case(op, X, opset=7, axes=[1]),
            case(op, X, opset=11, axes=[-1, 0], keepdims=0),
            case(op, X, ints(2, 1), opset=changed, keepdims=0),
            case(op, X, ints(-2), opset=changed),
            case(op, X, opset=changed, noop_with_empty_axes=1) if op in ("ReduceSum", "ReduceMean")
            else case(op, X, opset=9, keepdims=0),
        ]  # fmt: skip
    return cases


def shape() -> list[Case]:
    parts = (X, random(2, 1, 4, seed=1), random(2, 2, 4, seed=2))
    return [
        case("Reshape", X, ints(4, -1)), case("Reshape", X, ints(0, 2, 6), opset=7),
        case("Reshape", X, ints(24), allowzero=1), case("Flatten", IMAGE, axis=2),
        case("Flatten", IMAGE, opset=7), case("Squeeze", X[:1, :, :1], fixed=True),
        case("Squeeze", X[:1, :, :1], ints(0)), case("Squeeze", X[:1, :, :1], opset=11, axes=[2]),
        case("Unsqueeze", X, ints(0, 2)), case("Unsqueeze", X, opset=7, axes=[1]),
        case("Transpose", X),
        case("Transpose", X, perm=[1, 2, 0]), case("Transpose", X, perm=[0, 2, 1]),
        case("Expand", X[:, :1], ints(2, 3, 4)), case("Expand", X[0, 0], ints(5, 1, 4), opset=8),
        case("Concat", *parts, wrt=(0, 1, 2), axis=1), case("Concat", *parts, wrt=(1,), axis=-2),
        case("Concat", *parts, wrt=(0, 2), axis=1, opset=7),
        case("Split", X, ints(1, 3), outputs=2, axis=2, used=(0, 1)),
        case("Split", X, ints(1, 2, 1), outputs=3, axis=-1, used=(1,)),
        case("Split", X, opset=7, outputs=2, axis=2, split=[3, 1], used=(0, 1)),
        case("Split", X, opset=11, outputs=2, used=(1,), fixed=True),
        case("Split", random(2, 5), outputs=2, axis=1, num_outputs=2, used=(1,)),
        case("DepthToSpace", IMAGE, blocksize=2),
        case("DepthToSpace", IMAGE, blocksize=2, mode="CRD"),
        case("SpaceToDepth", random(2, 3, 4, 6), blocksize=2),
    ]  # fmt: skip


def indexing() -> list[Case]:
    cases = [
        case("Slice", X, ints(1, 0), ints(3, 2), ints(1, 2)),
        case("Slice", X, ints(0, 1), ints(2**31, 9), ints(0, 1)),
        case("Slice", X, ints(0, 1), ints(1, 3), opset=10, fixed=True),
        case("Slice", X, ints(-3, -1), ints(-1, 2**31), ints(-1, 1)),
        case("Slice", X, ints(0, 3), ints(9, -9), ints(1, 2), ints(2, -1)),
        case("Slice", X, ints(-1), ints(-(2**40)), ints(2), ints(-2)),
        case("Slice", X, ints(3), ints(0), ints(2), ints(-1)),
        case("Slice", X, opset=7, starts=[1, 0], ends=[2, 3], axes=[0, 2], fixed=True),
        case("Gather", X, ints(2, 0), axis=1), case("Gather", X, ints(1, -1, 1, 0), axis=2),
        case("Gather", X, np.array(-1), axis=1),
        case("Gather", X, np.array([[0, 1], [1, 1]]), fixed=True),
        case("Gather", X, np.array([[0, 2]]), axis=2, opset=7),
        case("Pad", X, ints(0, 1, 0, 0, 2, 3)), case("Pad", X, ints(0, -1, 0, 0, 0, -2)),
        case("Pad", X, ints(0, -1, 0, 0, 2, 0), np.array(0.5)),
        case("Pad", X, ints(1, 2), None, ints(-1)),
        case("Pad", X, opset=7, pads=[0, 1, 0, 0, 0, 1]),
        case("Pad", X, ints(0, 1, 2, 0, 2, 1), mode="reflect"),
        case("Pad", X, ints(0, 1, 2, 0, 2, 1), mode="edge"),
        case("Pad", X, ints(0, 1, 2, 0, 2, 1), mode="wrap", opset=19),
        case("Pad", X, opset=7, pads=[0, 1, 0, 0, 0, 1], mode="edge"),
    ]  # fmt: skip
    image = random(1, 2, 4, 5)
    empty = np.array([], np.float32)
    double, odd = np.array([1, 1, 2, 2], np.float32), np.array([1, 1, 1.7, 0.6], np.float32)
    cases += [
        case("Upsample", image, opset=7, scales=[1.0, 1.0, 2.0, 3.0], mode="nearest"),
        case("Upsample", image, double, opset=9, mode="linear"),
        case("Resize", image, double, opset=10),
        case("Resize", image, odd, opset=10, mode="linear"),
        case("Resize", image, None, odd),
        case("Resize", image, empty, double, opset=11),
        case("Resize", image, None, None, ints(1, 2, 7, 3), mode="linear"),
        case("Resize", image, None, None, ints(7, 9), mode="cubic", axes=[2, 3]),
    ]  # fmt: skip
    for mode in ("nearest", "linear", "cubic"):
        for transformation in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"):
            cases += [
                case("Resize", image, empty, scales, opset=opset, mode=mode,
                     coordinate_transformation_mode=transformation)
                for scales, opset in ((double, 11), (odd, 13))
            ]  # fmt: skip
    cases += [
        case("Resize", image, None, odd, mode="nearest", nearest_mode=rounding)
        for rounding in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    ]
    cases += [
        case("Resize", image, None, odd, mode="linear", antialias=1),
        case("Resize", image, None, odd, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
        case("Resize", random(1, 2, 3), None, np.array([1, 1, 2.5], np.float32), mode="linear"),
        case("Resize", random(1, 1, 3, 2, 2), None, np.array([1, 1, 2, 2, 2], np.float32)),
    ]  # fmt: skip
    return cases


CASES = [
    *elementwise(), *convolution(), *pooling(), *linear(), *normalization(), *reduction(),
    *shape(), *indexing(),
]  # fmt: skip
