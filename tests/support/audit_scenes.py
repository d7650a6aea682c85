"""Pictures of the demo's scenes with their table, and the demo's networks as ONNX files."""

import csv

import numpy as np
from PIL import Image

from gradcam_multi.demo import CLASSES, VALIDATION_SEED, draw_scenes, load_network
from gradcam_multi.plugins import installed

COUNT = 160


class Scenes:
    """A folder with scenes, the mark of each its class's; `table` is a CSV of all of them."""

    def __init__(self, folder):
        self.folder = folder
        self.scenes = draw_scenes(COUNT, seed=VALIDATION_SEED, marks="label")
        (folder / "pictures").mkdir()
        self.boxes = []
        for number, scene in enumerate(self.scenes):
            Image.fromarray(scene.image).save(folder / "pictures" / f"{number:03}.png")
            rows, columns = np.nonzero(scene.mask)
            self.boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        self.names = [f"pictures/{number:03}.png" for number in range(COUNT)]
        self.table = self.write("scenes.csv", range(COUNT))
        (folder / "labels.txt").write_text("\n".join(CLASSES))
        for name in ("sound", "shortcut"):
            network = installed().build(load_network(name), "onnx")
            (folder / f"{name}.onnx").write_bytes(network)
        self.sound, self.shortcut = folder / "sound.onnx", folder / "shortcut.onnx"

    def names_of(self, count):
        """The paths of the first scenes."""
        return [self.folder / name for name in self.names[:count]]

    def write(self, name, numbers, changes=None):
        """Write a table of some scenes, a scene named as often as its number occurs."""
        path = self.folder / name
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "label", "left", "top", "right", "bottom"])
            for row, number in enumerate(numbers):
                image = (changes or {}).get(row, self.names[number])
                writer.writerow([image, CLASSES[self.scenes[number].label], *self.boxes[number]])
        return path
