"""ONNX Runtime's fused operators."""

from typing import Any

from rule_cases import IMAGE, WEIGHT, X
from rule_check import Case, case, random


def fused(op: str, *inputs: Any, **more: Any) -> Case:
    return case(op, *inputs, domain="com.microsoft", fixed=True, **more)


BIAS, ROW = random(6, seed=5), random(4, seed=3)
SMALL = IMAGE[:, :, :5, :5]
RESULT = random(2, 6, 3, 3, seed=6)
TOKENS = random(2, 3, 4, seed=1)

CASES = [
    fused("FusedConv", SMALL, WEIGHT, BIAS, activation="Relu"),
    fused("FusedConv", SMALL, WEIGHT, BIAS, RESULT, wrt=(0, 3), activation="Relu"),
    fused("FusedConv", SMALL, WEIGHT, activation="LeakyRelu", activation_params=[0.2],
          pads=[1, 0, 1, 0]),
    fused("FusedConv", SMALL * 0.02, WEIGHT, activation="Tanh"),
    fused("FusedConv", SMALL, WEIGHT, BIAS, activation="Clip", activation_params=[-3.0, 6.0]),
    fused("FusedConv", SMALL * 0.05, WEIGHT, activation="HardSigmoid",
          activation_params=[0.2, 0.5]),
    fused("FusedMatMul", X, TOKENS, wrt=(0, 1), transB=1, alpha=0.5),
    fused("FusedMatMul", X, TOKENS, wrt=(0, 1), transA=1),
    fused("TransposeMatMul", X, TOKENS, wrt=(0, 1), transB=1),
    fused("FusedGemm", X[0], random(4, 5), random(5, seed=1), wrt=(0, 1, 2), activation="Relu",
          alpha=0.7, beta=1.2),
    fused("FusedGemm", X[0], random(5, 4), None, activation="LeakyRelu", activation_alpha=0.3,
          transB=1),
    fused("Gelu", X), fused("BiasGelu", X, ROW, wrt=(0, 1)), fused("FastGelu", X),
    fused("FastGelu", X, ROW, wrt=(0, 1)), fused("QuickGelu", X), fused("QuickGelu", X, alpha=1.0),
    fused("SkipLayerNormalization", X, TOKENS, ROW, random(4, seed=4), wrt=(0, 1), epsilon=0.1),
    fused("SkipLayerNormalization", X, TOKENS, ROW, random(4, seed=4), random(4, seed=5),
          wrt=(0, 1, 4), epsilon=0.1),
    fused("SkipSimplifiedLayerNormalization", X, TOKENS, ROW, wrt=(0, 1), epsilon=0.1),
]  # fmt: skip
"""Those whose kernels a CPU has; the others are compared with what they fuse."""
