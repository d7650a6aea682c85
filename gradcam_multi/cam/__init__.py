"""The CAM methods: functions of activations, gradients and runs of a model, in one table."""

from gradcam_multi.cam.method import Method
from gradcam_multi.cam.methods import GRADIENT_METHODS, METHODS, ONE_PASS, method_named
from gradcam_multi.cam.normalize import Status, probed_maps, raw_maps
from gradcam_multi.cam.probe import Probe
from gradcam_multi.cam.scaling import heatmaps, rescale

__all__ = [
    "GRADIENT_METHODS", "METHODS", "ONE_PASS", "Method", "Probe", "Status", "heatmaps",
    "method_named", "probed_maps", "raw_maps", "rescale",
]  # fmt: skip
