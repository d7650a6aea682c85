"""Drawn scenes and two tiny networks to explain: one learned the objects, one a shortcut."""

from gradcam_multi.demo.collages import Collage, draw_collages
from gradcam_multi.demo.networks import DemoLayer, DemoNetwork, NetworkName, load_network
from gradcam_multi.demo.scenes import (
    CLASSES,
    VALIDATION_SEED,
    Scene,
    as_inputs,
    draw_scene,
    draw_scenes,
    load_examples,
)

__all__ = [
    "CLASSES",
    "VALIDATION_SEED",
    "Collage",
    "DemoLayer",
    "DemoNetwork",
    "NetworkName",
    "Scene",
    "as_inputs",
    "draw_collages",
    "draw_scene",
    "draw_scenes",
    "load_examples",
    "load_network",
]
