"""The CAM methods: functions of activations and gradients, in one table."""

from gradcam_multi.cam.methods import METHODS, Method, method_named
from gradcam_multi.cam.normalize import Status, raw_maps, rescale

__all__ = ["METHODS", "Method", "Status", "method_named", "raw_maps", "rescale"]
