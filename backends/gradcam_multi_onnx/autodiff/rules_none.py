"""Operators through which no gradient flows, and operators that are refused, with the reason."""

from gradcam_multi_onnx.autodiff.registry import no_gradient, refuse

no_gradient(
    "And", "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "Ceil", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater", "GreaterOrEqual", "Hardmax",
    "IsInf", "IsNaN", "Less", "LessOrEqual", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or",
    "Range", "Round", "Shape", "Sign", "Size", "Xor",
    "BitCast", "BlackmanWindow", "Constant", "HammingWindow", "HannWindow", "ImageDecoder",
    "RandomNormal",
    "RandomUniform", "SequenceEmpty", "SequenceLength", "StringConcat", "StringNormalizer",
    "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "Unique",
)  # fmt: skip

refuse(
    "control flow is not differentiated; export the model without it (fixed input sizes help)",
    "If", "Loop", "Scan",
)  # fmt: skip
refuse("recurrent layers are not differentiated", "GRU", "LSTM", "RNN")
refuse(
    "it draws random numbers", "Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"
)
refuse("no operator of ONNX tells an inverse matrix", "Det")
refuse(
    "its sampling positions have no rule; choose a later layer",
    "DeformConv", "MaxRoiPool", "RoiAlign",
)  # fmt: skip
refuse("sampling at positions has no rule; choose a later layer", "Col2Im", "GridSample")
refuse("spectra have no rule; choose a later layer", "DFT", "MelWeightMatrix", "STFT")
refuse(
    "sequences and optional values are not differentiated",
    "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt",
    "SequenceConstruct", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence",
)  # fmt: skip
refuse("it writes into a cache of earlier tokens", "TensorScatter")
