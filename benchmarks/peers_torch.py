"""PyTorch's peers: grad-cam, torchcam and captum."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Call = Callable[[], Any]

GRAD_CAM = {
    "gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "hirescam": "HiResCAM",
    "layercam": "LayerCAM", "xgradcam": "XGradCAM", "gradcam-elementwise": "GradCAMElementWise",
    "eigencam": "EigenCAM", "eigengradcam": "EigenGradCAM", "kpca-cam": "KPCA_CAM", "fem": "FEM",
    "finer-cam": "FinerCAM", "scorecam-softmax": "ScoreCAM", "ablationcam": "AblationCAM",
    "random-cam": "RandomCAM",
}  # fmt: skip
TORCHCAM = {
    "gradcam": "GradCAM", "gradcam++": "GradCAMpp", "layercam": "LayerCAM", "xgradcam": "XGradCAM",
    "smoothgradcam++": "SmoothGradCAMpp", "scorecam-softmax": "ScoreCAM", "ss-cam": "SSCAM",
    "is-cam": "ISCAM",
}  # fmt: skip


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


def torchcam(method: str, model: nn.Module, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method not in TORCHCAM:
        return None
    from torchcam import methods

    own, tensor = _own(model), torch.from_numpy(x)
    folding = {"reshape_transform": fold} if (fold := _folding(own, layer)) else {}
    extractor = getattr(methods, TORCHCAM[method])(own, f"parts.{layer}", **folding)
    return lambda: extractor([target] * len(x), own(tensor))


def captum(method: str, model: nn.Module, layer: str, x: np.ndarray, target: int) -> Call | None:
    if method != "gradcam":
        return None
    from captum.attr import LayerAttribution, LayerGradCam

    own, tensor = _own(model), torch.from_numpy(x)
    if _folding(own, layer):
        return None  # it knows no grid of tokens
    attribution = LayerGradCam(own, own.parts[layer])  # type: ignore[index]

    def call() -> Tensor:
        cam = attribution.attribute(tensor, target=target, relu_attributions=True)
        out: Tensor = LayerAttribution.interpolate(cam, x.shape[2:], "bilinear")
        return out

    return call


PEERS = {"grad-cam": grad_cam, "torchcam": torchcam, "captum": captum}
