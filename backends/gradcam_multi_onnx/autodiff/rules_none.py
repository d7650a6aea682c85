"""Operators through which no gradient flows, and operators that are refused, with the reason."""

from gradcam_multi_onnx.autodiff.registry import no_gradient, refuse

no_gradient(
    "And", "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "Ceil", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater", "GreaterOrEqual", "Hardmax",
    "IsInf", "IsNaN", "Less", "LessOrEqual", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or",
    "Range", "Round", "Shape", "Sign", "Size", "Xor",
)  # fmt: skip

refuse(
    "control flow is not differentiated; export the model without it (fixed input sizes help)",
    "If", "Loop", "Scan",
)  # fmt: skip
refuse("recurrent layers are not differentiated", "GRU", "LSTM", "RNN")
refuse(
    "quantised operators are not differentiated; explain the model before quantisation",
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv",
    "QLinearMatMul", "QuantizeLinear",
)  # fmt: skip
refuse(
    "it draws random numbers", "Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"
)
