"""TensorFlow's peers: tf-keras-vis, xplique and tf-explain."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from peers import SAMPLES

Call = Callable[[], Any]

TF_KERAS_VIS = {
    "gradcam": ("gradcam", "Gradcam"), "gradcam++": ("gradcam_plus_plus", "GradcamPlusPlus"),
    "layercam": ("layercam", "Layercam"), "scorecam": ("scorecam", "Scorecam"),
    "saliency": ("saliency", "Saliency"), "smoothgrad": ("saliency", "Saliency"),
}  # fmt: skip
XPLIQUE = {
    "gradcam": "GradCAM", "gradcam++": "GradCAMPP", "rise": "Rise", "fem": "FEM",
    "saliency": "Saliency", "smoothgrad": "SmoothGrad", "guided-backprop": "GuidedBackprop",
    "integrated-gradients": "IntegratedGradients",
}  # fmt: skip
TF_EXPLAIN = {
    "gradcam": ("grad_cam", "GradCAM"), "saliency": ("vanilla_gradients", "VanillaGradients"),
    "smoothgrad": ("smoothgrad", "SmoothGrad"),
    "integrated-gradients": ("integrated_gradients", "IntegratedGradients"),
}  # fmt: skip


def tf_keras_vis(method: str, model: Any, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method not in TF_KERAS_VIS:
        return None
    from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    module, name = TF_KERAS_VIS[method]
    make = getattr(import_module(f"tf_keras_vis.{module}"), name)
    visualization = make(model, model_modifier=ReplaceToLinear(), clone=True)
    score = CategoricalScore([target] * len(x))
    if method == "saliency":
        return lambda: visualization(score, x)
    if method == "smoothgrad":
        return lambda: visualization(score, x, smooth_samples=SAMPLES[method])
    return lambda: visualization(score, x, penultimate_layer=-1)


def xplique(method: str, model: Any, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method not in XPLIQUE:
        return None
    from xplique import attributions

    name = "steps" if method == "integrated-gradients" else "nb_samples"
    settings = {name: SAMPLES[method]} if method in SAMPLES else {}
    explainer = getattr(attributions, XPLIQUE[method])(model, **settings)
    labels = np.eye(model.output_shape[-1], dtype=np.float32)[[target] * len(x)]
    return lambda: explainer(x, labels)


def tf_explain(method: str, model: Any, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method not in TF_EXPLAIN:
        return None
    module, name = TF_EXPLAIN[method]
    explainer, data = getattr(import_module(f"tf_explain.core.{module}"), name)(), (x, None)
    if method == "saliency":  # the model already ends before a softmax
        return lambda: explainer.explain_score_model(data, model, target)
    # The layer is named: how it finds one itself fails under Keras 3.
    settings = {
        "gradcam": {"layer_name": layer},
        "smoothgrad": {"num_samples": SAMPLES["smoothgrad"]},
        "integrated-gradients": {"n_steps": SAMPLES["integrated-gradients"]},
    }[method]
    return lambda: explainer.explain(data, model, class_index=target, **settings)


PEERS = {"tf-keras-vis": tf_keras_vis, "xplique": xplique, "tf-explain": tf_explain}
