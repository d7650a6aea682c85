"""Grad-CAM in a browser: a page that runs an exported heatmap graph, and a server for it."""

from gradcam_multi.live.runtime import find_runtime
from gradcam_multi.live.server import make_server
from gradcam_multi.live.site import write_live

__all__ = ["find_runtime", "make_server", "write_live"]
