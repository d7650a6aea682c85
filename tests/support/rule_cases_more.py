"""Nodes of the kinds that are rarer in exported networks."""

import numpy as np
from rule_cases import IMAGE, POSITIVE, WEIGHT, X
from rule_check import Case, case, ints, random

ZEROS = np.where(np.arange(24).reshape(2, 3, 4) % 5 == 0, 0.0, X)  # zeros on purpose, two in a row


def arithmetic() -> list[Case]:
    row, low, high = random(3, 1, low=0.61, high=1.17, seed=2), np.array(-0.51), np.array(0.83)
    return [
        case("Mod", X, row, wrt=(0, 1), fmod=1), case("Mod", X, np.array(0.37), fmod=1),
        case("Shrink", X, lambd=0.7, bias=0.3, single=True),
        case("Shrink", X, opset=9, single=True),
        case("Clip", X, low, high, wrt=(0, 1, 2)), case("Clip", X, high, low, wrt=(0, 1, 2)),
        case("Clip", X, None, high, wrt=(0, 2)), case("Clip", X, low, wrt=(0, 1)),
        case("CumSum", X, np.array(1)), case("CumSum", X, np.array(-1), exclusive=1, opset=11),
        case("CumSum", X, np.array(2), reverse=1), case("CumSum", X, ints(0), reverse=1,
             exclusive=1, opset=14),
        case("Einsum", X, random(3, 5, seed=1), wrt=(0, 1), equation="bij,ik->bkj"),
        case("Einsum", X, random(2, 4, seed=1), wrt=(0, 1), equation="bij,bj->i"),
        case("Einsum", X, wrt=(0,), equation="bij->bj"), case("Einsum", X, equation="bij"),
        case("Einsum", X, X, wrt=(0, 1), equation="...ij, ...kj -> ...ik", fixed=True),
        case("Einsum", random(3, 3), equation="ii->i", fixed=True),
        case("Einsum", random(3, 3), equation="ii", fixed=True),
        case("Einsum", random(2, 3, 3), random(3), wrt=(0, 1), equation="bii,i->b", fixed=True),
        case("Einsum", random(2, 3), random(3, 2, seed=1), random(2, 4, seed=2), wrt=(0, 1, 2),
             equation="ij,jk,kl->il", opset=12),
    ]  # fmt: skip


def weights() -> list[Case]:
    """Convolutions and normalisations whose parameters depend on the layer."""
    grouped, depthwise = random(6, 2, 3, 2, seed=6), random(4, 1, 3, 3, seed=7)
    up, small = random(4, 3, 3, 2, seed=2), random(2, 4, 3, 4)
    channel = [random(4, low=0.5, high=1.5, seed=s) for s in range(4)]
    return [
        case("Conv", IMAGE, WEIGHT, wrt=(0, 1)), case("Conv", IMAGE, WEIGHT, wrt=(1,),
             strides=[3, 2], pads=[1, 0, 2, 1]),
        case("Conv", IMAGE, WEIGHT, wrt=(1,), dilations=[2, 1], pads=[2, 1, 0, 1]),
        case("Conv", IMAGE, grouped, wrt=(0, 1), group=2, strides=[2, 2], fixed=True),
        case("Conv", IMAGE, depthwise, wrt=(0, 1), group=4, auto_pad="SAME_UPPER", fixed=True),
        case("Conv", random(2, 4, 9), random(3, 4, 4, seed=8), wrt=(1,), strides=[2], pads=[1, 2]),
        case("ConvTranspose", small, up, wrt=(0, 1), strides=[2, 3], pads=[1, 0, 0, 1]),
        case("ConvTranspose", small, random(4, 3, 2, 2, seed=3), wrt=(0, 1), group=2,
             strides=[2, 2], output_padding=[1, 0], fixed=True),
        case("BatchNormalization", IMAGE, *channel, wrt=(0, 1, 2, 3, 4), epsilon=0.1),
        case("InstanceNormalization", IMAGE, *channel[:2], wrt=(0, 1, 2), epsilon=0.1),
    ]  # fmt: skip


def normalization() -> list[Case]:
    channel = [random(4, low=0.5, high=1.5, seed=s) for s in range(2)]
    group = [random(2, low=0.5, high=1.5, seed=s) for s in range(2)]
    cases = [
        case("GroupNormalization", IMAGE, *group, num_groups=2, wrt=(0, 1, 2)),
        case("GroupNormalization", IMAGE, *group, num_groups=2, epsilon=0.2),
        case("GroupNormalization", IMAGE, *channel, num_groups=2, wrt=(0, 1, 2), opset=21,
             single=True),
        case("GroupNormalization", random(2, 4, 5), *channel, num_groups=1, opset=21, single=True),
        case("RMSNormalization", X, random(4, seed=1), wrt=(0, 1), opset=23),
        case("RMSNormalization", X, random(3, 4, seed=1), axis=1, epsilon=0.1, opset=23),
        case("LayerNormalization", X, random(4, seed=1), outputs=3, used=(0, 1, 2), axis=-1,
             single=True),
        case("LayerNormalization", X, random(4, seed=1), outputs=3, used=(2,), axis=1,
             epsilon=0.1, single=True),
        case("MeanVarianceNormalization", IMAGE, opset=9),
        case("MeanVarianceNormalization", IMAGE, axes=[2, -1], opset=13),
        case("SimplifiedLayerNormalization", X, random(4, seed=1), axis=-1),
    ]  # fmt: skip
    cases += [
        case("LpNormalization", x, p=p, axis=axis, opset=opset)
        for x, p, axis, opset in ((X, 2, -1, 7), (X, 1, 1, 22), (POSITIVE, 2, 0, 18))
    ]
    return cases


def pooling() -> list[Case]:
    cases = [
        case("LpPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], p=p, opset=opset)
        for p in (1, 2, 3) for opset in (11, 18)
    ]  # fmt: skip
    return [
        *cases,
        case("LpPool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], opset=7),
        case("LpPool", IMAGE, kernel_shape=[2, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
        case("LpPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        case("LpPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
        case("GlobalLpPool", IMAGE), case("GlobalLpPool", IMAGE, p=3, opset=7),
        case("GlobalLpPool", random(2, 3, 5), p=1),
        case("MaxUnpool", random(1, 1, 2, 2), ints(1, 3, 10, 12).reshape(1, 1, 2, 2),
             kernel_shape=[2, 2], strides=[2, 2], opset=11),
    ]  # fmt: skip


def reduction() -> list[Case]:
    cases = [
        case("ReduceProd", ZEROS), case("ReduceProd", ZEROS, ints(1)),
        case("ReduceProd", ZEROS, ints(2, 0), keepdims=0), case("ReduceProd", X, opset=7, axes=[2]),
        case("ReduceLogSum", POSITIVE), case("ReduceLogSum", POSITIVE, opset=11, axes=[-1, 0]),
        case("ReduceLogSum", POSITIVE, ints(1), keepdims=0),
    ]  # fmt: skip
    return cases


def indexing() -> list[Case]:
    taken = ints(0, 2, 1, 0, -1, 1, 2, 2).reshape(2, 1, 4)
    pairs = np.array([[0, 1], [1, 2], [-2, 0]])
    flat = ints(1, 0, 2, 1).reshape(1, 1, 4)
    update = random(1, 1, 4, seed=4)
    rows = random(3, 4, seed=5)
    cases = [
        case("GatherElements", X, taken, axis=1), case("GatherElements", X, taken, axis=-2,
             opset=11),
        case("GatherND", X, pairs), case("GatherND", X, np.array([[[0, 1, 2]], [[1, 2, 3]]])),
        case("GatherND", X, ints(2, 0).reshape(2, 1), batch_dims=1, opset=12),
        case("GatherND", X, ints(1, 0, 2, 3).reshape(2, 1, 2), batch_dims=1),
        case("ScatterElements", X, flat, update, wrt=(0, 2), axis=1),
        case("ScatterElements", X, ints(1, 1, 2, 1).reshape(1, 1, 4), update, wrt=(0, 2), axis=2,
             reduction="add"),
        case("ScatterElements", X, ints(1, 0, 2, 3).reshape(1, 1, 4), update, wrt=(0, 2), axis=2,
             reduction="max"),
        case("ScatterElements", X, ints(1, 0, 2, 3).reshape(1, 1, 4), update, wrt=(0, 2), axis=2,
             reduction="min"),
        case("ScatterElements", X, ints(1, 1, 2, 3).reshape(1, 1, 4), update, axis=2,
             reduction="mul"),
        case("Scatter", X, flat, update, wrt=(0, 2), axis=1, opset=10),
        case("ScatterND", X, pairs, rows, wrt=(0, 2)),
        case("ScatterND", X, pairs, rows, wrt=(0, 2), reduction="add", opset=16),
        case("ScatterND", X, pairs, rows, wrt=(0, 2), reduction="max"),
        case("ScatterND", X, pairs, rows, wrt=(0, 2), reduction="min"),
        case("ScatterND", X, pairs, rows, reduction="mul"),
        case("TopK", X, ints(2), outputs=2, axis=1), case("TopK", X, ints(3), outputs=2, largest=0),
        case("TopK", X, outputs=2, k=2, opset=9),
        case("Trilu", X), case("Trilu", X, np.array(1), upper=0), case("Trilu", X, np.array(-1)),
        case("Compress", X, np.array([True, False, True]), axis=1),
        case("Compress", X, np.arange(20) % 3 == 0, opset=9, fixed=True),
        case("ReverseSequence", X, ints(2, 1, 2), batch_axis=1, time_axis=0, fixed=True),
        case("ReverseSequence", X, ints(3, 2), batch_axis=0, time_axis=1),
        case("Tile", X, ints(1, 2, 3)), case("Tile", X, ints(3, 1, 1), opset=7),
        case("DepthToSpace", random(1, 9, 2, 3), blocksize=3, mode="CRD", opset=11),
        case("Pad", X, ints(0, 1, 0, 0, 2, 3), np.array(0.5), wrt=(0, 2), fixed=True),
    ]  # fmt: skip
    return cases


CASES = [
    *arithmetic(), *weights(), *normalization(), *pooling(), *reduction(), *indexing(),
]  # fmt: skip
