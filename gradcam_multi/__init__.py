"""Where did the network look? Grad-CAM for PyTorch, TensorFlow/Keras and ONNX with one API."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradcam_multi.attribution import attribution_pictures
    from gradcam_multi.audit import audit
    from gradcam_multi.cam import METHODS, Method, Status
    from gradcam_multi.compare import compare
    from gradcam_multi.comparison import Comparison
    from gradcam_multi.concepts import Concepts, concepts
    from gradcam_multi.diagnosis import Diagnosis
    from gradcam_multi.doctor import doctor
    from gradcam_multi.errors import (
        AuditError,
        ExportError,
        GradcamError,
        ImageError,
        InputError,
        LayerError,
        MethodError,
        MissingExtraError,
        ModelError,
        PreprocessError,
        TargetError,
        UnsupportedError,
    )
    from gradcam_multi.explainer import CamWarning, Explainer, explain, layers
    from gradcam_multi.explanation import Explanation
    from gradcam_multi.export import export
    from gradcam_multi.geometry import Geometry
    from gradcam_multi.hooks import hookimpl
    from gradcam_multi.images import load_image
    from gradcam_multi.labels import read_labels
    from gradcam_multi.layers import Layers, final_feature_map
    from gradcam_multi.overlay import overlay
    from gradcam_multi.preprocess import Preprocess
    from gradcam_multi.spec import Layer, Model, TensorSpec, Trace
    from gradcam_multi.targets import (
        Binary,
        BoxHead,
        BoxScore,
        ClassDifference,
        ClassScore,
        FunctionScore,
        Item,
        ItemTarget,
        LogProbability,
        MultiLabel,
        Probability,
        RegionScore,
        Regression,
        Similarity,
        Target,
        TokenLogProbability,
        TopClass,
    )

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "AuditError",
    "Binary",
    "BoxHead",
    "BoxScore",
    "CamWarning",
    "ClassDifference",
    "ClassScore",
    "Comparison",
    "Concepts",
    "Diagnosis",
    "Explainer",
    "Explanation",
    "ExportError",
    "FunctionScore",
    "Geometry",
    "GradcamError",
    "ImageError",
    "InputError",
    "Item",
    "ItemTarget",
    "Layer",
    "LayerError",
    "Layers",
    "LogProbability",
    "Method",
    "MethodError",
    "MissingExtraError",
    "Model",
    "ModelError",
    "MultiLabel",
    "Preprocess",
    "PreprocessError",
    "Probability",
    "RegionScore",
    "Regression",
    "Similarity",
    "Status",
    "Target",
    "TargetError",
    "TensorSpec",
    "TokenLogProbability",
    "TopClass",
    "Trace",
    "UnsupportedError",
    "attribution_pictures",
    "audit",
    "compare",
    "concepts",
    "doctor",
    "explain",
    "export",
    "final_feature_map",
    "hookimpl",
    "layers",
    "load_image",
    "overlay",
    "read_labels",
]

_HOMES = {
    "attribution": ("attribution_pictures",),
    "audit": ("audit",),
    "cam": ("METHODS", "Method", "Status"),
    "compare": ("compare",),
    "comparison": ("Comparison",),
    "concepts": ("Concepts", "concepts"),
    "diagnosis": ("Diagnosis",),
    "doctor": ("doctor",),
    "errors": (
        "AuditError",
        "ExportError",
        "GradcamError",
        "ImageError",
        "InputError",
        "LayerError",
        "MethodError",
        "MissingExtraError",
        "ModelError",
        "PreprocessError",
        "TargetError",
        "UnsupportedError",
    ),
    "explainer": ("CamWarning", "Explainer", "explain", "layers"),
    "explanation": ("Explanation",),
    "export": ("export",),
    "geometry": ("Geometry",),
    "hooks": ("hookimpl",),
    "images": ("load_image",),
    "labels": ("read_labels",),
    "layers": ("Layers", "final_feature_map"),
    "overlay": ("overlay",),
    "preprocess": ("Preprocess",),
    "spec": ("Layer", "Model", "TensorSpec", "Trace"),
    "targets": (
        "Binary",
        "BoxHead",
        "BoxScore",
        "ClassDifference",
        "ClassScore",
        "FunctionScore",
        "Item",
        "ItemTarget",
        "LogProbability",
        "MultiLabel",
        "Probability",
        "RegionScore",
        "Regression",
        "Similarity",
        "Target",
        "TokenLogProbability",
        "TopClass",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name, or one of the modules that hold them, when it is first asked for.

    All together they take longer to import than NumPy.
    """
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class _Package(ModuleType):
    """A package in which importing the module `audit` does not hide the function `audit`."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
