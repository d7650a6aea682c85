"""PyTorch's peers: grad-cam, torchcam and captum."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from peers import SAMPLES
from torch import Tensor, nn

Call = Callable[[], Any]

GRAD_CAM = {
    "gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM",
    "layercam": "LayerCAM", "xgradcam": "XGradCAM", "gradcam-elementwise": "GradCAMElementWise",
    "eigencam": "EigenCAM", "eigengradcam": "EigenGradCAM", "kpca-cam": "KPCA_CAM", "fem": "FEM",
    "finer-cam": "FinerCAM", "scorecam-softmax": "ScoreCAM", "ablationcam": "AblationCAM",
    "random-cam": "RandomCAM", "shapley-cam": "ShapleyCAM", "fullgrad": "FullGrad",
}  # fmt: skip
TORCHCAM = {
    "gradcam": "GradCAM", "gradcam++": "GradCAMpp", "layercam": "LayerCAM", "xgradcam": "XGradCAM",
    "smoothgradcam++": "SmoothGradCAMpp", "scorecam-softmax": "ScoreCAM", "ss-cam": "SSCAM",
    "is-cam": "ISCAM", "cam": "CAM",
}  # fmt: skip
CAPTUM = {
    "gradcam": "LayerGradCam", "saliency": "Saliency", "smoothgrad": "Saliency",
    "integrated-gradients": "IntegratedGradients", "guided-backprop": "GuidedBackprop",
    "guided-gradcam": "GuidedGradCam",
}  # fmt: skip


def _declared_torchvision() -> torch.library.Library | None:
    """Declare the operators that torchvision names when it is imported, where it cannot.

    Its wheel holds them compiled for another build of PyTorch than the one for CPUs, which
    cannot load them; peers import torchvision and use none of these.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return None
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


KEPT = _declared_torchvision()  # an operator lives as long as its library


def _own(model: nn.Module) -> nn.Module:
    """A copy with the same weights, since peers leave their hooks on a model."""
    tensors = (*model.parameters(), *model.buffers())
    return deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _grid(tokens: Tensor) -> Tensor:
    """Fold (N, 1 + rows * columns, C) tokens to (N, C, rows, columns)."""
    patches = tokens[:, 1:]
    side = int(patches.shape[1] ** 0.5)
    return patches.transpose(1, 2).unflatten(2, (side, side))


def _folding(module: nn.Module, layer: str) -> Callable[[Tensor], Tensor] | None:
    return _grid if isinstance(module.parts[layer], nn.LayerNorm) else None  # type: ignore[index]


def grad_cam(method: str, model: nn.Module, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method == "guided-backprop":
        return _guided(model, x, target)
    if method not in GRAD_CAM:
        return None
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    own, tensor = _own(model), torch.from_numpy(x)
    make = getattr(pytorch_grad_cam, GRAD_CAM[method])
    folding = {"reshape_transform": fold} if (fold := _folding(own, layer)) else {}
    cam = make(model=own, target_layers=[own.parts[layer]], **folding)  # type: ignore[index]
    # FinerCAM chooses the classes that it compares with by itself.
    targets = None if method == "finer-cam" else [ClassifierOutputTarget(target)] * len(x)
    if hasattr(cam, "batch_size"):
        cam.batch_size = 32  # the setting of its own example
    return lambda: cam(input_tensor=tensor, targets=targets)


def _guided(model: nn.Module, x: np.ndarray, target: int) -> Call:
    from pytorch_grad_cam import GuidedBackpropReLUModel

    guided = GuidedBackpropReLUModel(model=_own(model), device="cpu")
    pictures = [torch.from_numpy(picture[None]) for picture in x]  # it takes one at a time
    return lambda: [guided(picture, target_category=target) for picture in pictures]


def torchcam(method: str, model: nn.Module, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method not in TORCHCAM:
        return None
    from torchcam import methods

    own, tensor = _own(model), torch.from_numpy(x)
    folding = {"reshape_transform": fold} if (fold := _folding(own, layer)) else {}
    settings = {"num_samples": SAMPLES[method]} if method in SAMPLES else {}
    settings |= {"fc_layer": "parts.logits"} if method == "cam" else {}
    make = getattr(methods, TORCHCAM[method])
    extractor = make(own, f"parts.{layer}", **folding, **settings)
    return lambda: extractor([target] * len(x), own(tensor))


def captum(method: str, model: nn.Module, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method not in CAPTUM or _folding(model, layer):
        return None  # it knows no grid of tokens
    from captum import attr

    own, tensor = _own(model), torch.from_numpy(x)
    for module in own.modules():  # its pages ask for activations that are not in place
        if hasattr(module, "inplace"):
            module.inplace = False
    at_layer = method in ("gradcam", "guided-gradcam")
    make = getattr(attr, CAPTUM[method])
    attribution = make(own, own.parts[layer]) if at_layer else make(own)  # type: ignore[index]
    if method == "smoothgrad":
        attribution = attr.NoiseTunnel(attribution)
    samples = {"smoothgrad": "nt_samples", "integrated-gradients": "n_steps"}
    settings = {samples[method]: SAMPLES[method]} if method in samples else {}
    if method != "gradcam":
        return lambda: attribution.attribute(tensor, target=target, **settings)

    def call() -> Tensor:
        cam = attribution.attribute(tensor, target=target, relu_attributions=True)
        out: Tensor = attr.LayerAttribution.interpolate(cam, x.shape[2:], "bilinear")
        return out

    return call


PEERS = {"grad-cam": grad_cam, "torchcam": torchcam, "captum": captum}
