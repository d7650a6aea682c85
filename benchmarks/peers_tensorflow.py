"""TensorFlow's peers: tf-keras-vis, xplique and tf-explain."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

Call = Callable[[], Any]

TF_KERAS_VIS = {
    "gradcam": ("gradcam", "Gradcam"), "gradcam++": ("gradcam_plus_plus", "GradcamPlusPlus"),
    "layercam": ("layercam", "Layercam"), "scorecam": ("scorecam", "Scorecam"),
}  # fmt: skip
XPLIQUE = {"gradcam": "GradCAM", "gradcam++": "GradCAMPP", "rise": "Rise"}


def tf_keras_vis(method: str, model: Any, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method not in TF_KERAS_VIS:
        return None
    from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    module, name = TF_KERAS_VIS[method]
    make = getattr(import_module(f"tf_keras_vis.{module}"), name)
    visualization = make(model, model_modifier=ReplaceToLinear(), clone=True)
    score = CategoricalScore([target] * len(x))
    return lambda: visualization(score, x, penultimate_layer=-1)


def xplique(method: str, model: Any, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method not in XPLIQUE:
        return None
    from xplique import attributions

    explainer = getattr(attributions, XPLIQUE[method])(model)
    labels = np.eye(model.output_shape[-1], dtype=np.float32)[[target] * len(x)]
    return lambda: explainer(x, labels)


def tf_explain(method: str, model: Any, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method != "gradcam":
        return None
    from tf_explain.core.grad_cam import GradCAM

    explainer = GradCAM()
    # The layer is named: how it finds one itself fails under Keras 3.
    return lambda: explainer.explain((x, None), model, class_index=target, layer_name=layer)


PEERS = {"tf-keras-vis": tf_keras_vis, "xplique": xplique, "tf-explain": tf_explain}
