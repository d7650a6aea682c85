"""Train the two demonstration networks and write them, with the example scenes, into the package.

    python examples/train_demo.py

needs PyTorch, click and tqdm, and takes minutes on two CPU cores.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from gradcam_multi.demo.networks import LAYERS, NetworkName, load_network
from gradcam_multi.demo.scenes import (
    CLASSES,
    EXAMPLE_SEED,
    TRAINING_SEED,
    VALIDATION_SEED,
    Scene,
    draw_scenes,
)

Marks = Literal["none", "label", "random"]
DATA = Path(__file__).parents[1] / "gradcam_multi" / "demo" / "data"
CHANNELS: Mapping[str, int] = {"conv1": 16, "conv2": 32, "conv3": 48, "conv4": 64, "conv5": 64}
BATCH, TOP_RATE = 64, 0.004
CHUNK = 250


@dataclass(frozen=True)
class Plan:
    """What marks the training scenes carry, and how many scenes are seen how often."""

    marks: Marks
    scenes: int
    epochs: int


PLANS: Mapping[NetworkName, Plan] = {
    "sound": Plan("random", scenes=16000, epochs=8),
    # A small collection in which the mark goes with the class: a badge is learned long before the
    # shape of an object is.
    "shortcut": Plan("label", scenes=2000, epochs=4),
}


def draw(count: int, seed: int, marks: Marks, workers: int) -> list[Scene]:
    """Draw scenes in several processes; the result does not depend on how many."""
    parts = [(start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor(workers) as pool:
        chunks = pool.map(partial(_draw_part, seed=seed, marks=marks), parts)
        return [
            scene
            for chunk in tqdm(chunks, total=len(parts), desc=f"drawing, marks {marks}", leave=False)
            for scene in chunk
        ]


def _draw_part(part: tuple[int, int], seed: int, marks: Marks) -> list[Scene]:
    start, count = part
    return draw_scenes(count, seed=seed, marks=marks, start=start)


def to_tensors(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """Return images `(N, 3, 96, 96)` uint8 and labels `(N,)`."""
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    return images, torch.tensor([scene.label for scene in scenes])


def build(*, normalised: bool) -> nn.Sequential:
    """Build `LAYERS`; `normalised` puts a batch normalisation behind each convolution."""
    model, channels = nn.Sequential(), 3
    for layer in LAYERS:
        if layer.kind == "conv":
            out = CHANNELS[layer.name]
            model.add_module(layer.name, nn.Conv2d(channels, out, 3, padding=1))
            if normalised:
                model.add_module(f"{layer.name}_norm", nn.BatchNorm2d(out))
            channels = out
        elif layer.kind == "relu":
            model.add_module(layer.name, nn.ReLU())
        elif layer.kind == "maxpool":
            model.add_module(layer.name, nn.MaxPool2d(2))
        elif layer.kind == "gap":
            model.add_module(layer.name, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        else:
            model.add_module(layer.name, nn.Linear(channels, len(CLASSES)))
    return model


def fit(
    model: nn.Module, scenes: list[Scene], *, name: str, epochs: int, rate: float = TOP_RATE
) -> None:
    """Train on the scenes with AdamW, a one-cycle rate and smoothed labels."""
    images, labels = to_tensors(scenes)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stubs
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02)
    steps = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=rate, total_steps=steps * epochs
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        order = torch.randperm(len(labels))
        losses = 0.0
        with tqdm(range(steps), desc=f"{name} {epoch + 1}/{epochs}", leave=False) as progress:
            for step in progress:
                chosen = order[step * BATCH : (step + 1) * BATCH]
                inputs = images[chosen].to(memory_format=torch.channels_last).float() / 255
                loss = loss_of(model(inputs), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                losses += float(loss.detach())
        click.echo(f"{name}: epoch {epoch + 1}, mean loss {losses / steps:.3f}")
    model.eval()


def fold(model: nn.Sequential) -> dict[str, NDArray[np.float16]]:
    """Return the weights with each batch normalisation folded into the convolution before it."""
    arrays: dict[str, NDArray[np.float16]] = {}
    named = dict(model.named_children())
    for (name, module), (_, after) in pairwise([*named.items(), ("end", nn.Identity())]):
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert module.bias is not None
            weight, bias = module.weight.detach().double(), module.bias.detach().double()
            if isinstance(after, nn.BatchNorm2d):
                assert after.running_mean is not None
                assert after.running_var is not None
                scale = after.weight.detach() / torch.sqrt(after.running_var.double() + after.eps)
                weight = weight * scale[:, None, None, None]
                bias = (bias - after.running_mean) * scale + after.bias.detach()
            arrays[f"{name}.weight"] = weight.numpy().astype(np.float16)
            arrays[f"{name}.bias"] = bias.numpy().astype(np.float16)
    return arrays


def write(path: Path, arrays: Mapping[str, NDArray[np.float16]]) -> None:
    """Write a network's weights."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # keywords are arrays
    path.write_bytes(buffer.getvalue())


def load(name: NetworkName) -> nn.Sequential:
    """Load the network as it is shipped, read back from the package."""
    model = build(normalised=False)
    weights = load_network(name).weights
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    return model.eval()


def explain(
    model: nn.Sequential, scenes: list[Scene]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the top classes `(N,)` and their plain Grad-CAM maps `(N, 96, 96)` at `relu5`."""
    images, _ = to_tensors(scenes)
    tops, maps = [], []
    for part in torch.split(images, 200):
        with torch.no_grad():
            features = model[:-2](part.float() / 255)
        features.requires_grad_()
        logits = model[-2:](features)
        (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), features)
        cam = (gradient.mean((2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True).relu()
        heatmap = nn.functional.interpolate(cam, images.shape[-2:], mode="bilinear")
        tops.append(logits.argmax(1).numpy())
        maps.append(heatmap[:, 0].numpy())
    return np.concatenate(tops), np.concatenate(maps)


def measure(name: NetworkName, scenes: Mapping[Marks, list[Scene]]) -> dict[str, float]:
    """Measure the accuracy, and where the heatmap's peak lies when the mark is of the class."""
    model = load(name)
    figures: dict[str, float] = {}
    for marks, drawn in scenes.items():
        tops, maps = explain(model, drawn)
        labels = np.array([scene.label for scene in drawn])
        figures[f"accuracy, marks {marks}"] = float(np.mean(tops == labels))
        if marks == "label":
            peaks = [np.unravel_index(heatmap.argmax(), heatmap.shape) for heatmap in maps]
            figures["peak on object"] = float(
                np.mean([scene.mask[peak] for scene, peak in zip(drawn, peaks, strict=True)])
            )
            figures["peak on mark"] = float(
                np.mean([_in_box(scene, peak) for scene, peak in zip(drawn, peaks, strict=True)])
            )
            figures["object's share of area"] = float(np.mean([s.mask.mean() for s in drawn]))
    return figures


def _in_box(scene: Scene, peak: tuple[np.intp, ...]) -> bool:
    if scene.mark_box is None:
        return False
    left, top, right, bottom = scene.mark_box
    return bool(top <= peak[0] < bottom and left <= peak[1] < right)


def write_examples(folder: Path) -> None:
    """Write one scene of each class as PNG, its mask, and `scenes.json`, which lists them."""
    entries = []
    for scene in draw_scenes(len(CLASSES), seed=EXAMPLE_SEED, marks="label"):
        names = {"image": f"scene{scene.label}.png", "mask": f"scene{scene.label}_mask.png"}
        Image.fromarray(scene.image).save(folder / names["image"], optimize=True)
        Image.fromarray(scene.mask).save(folder / names["mask"], optimize=True)
        entries.append({**names, "mark": scene.mark, "mark_box": scene.mark_box})
    (folder / "scenes.json").write_text(json.dumps(entries, indent=1) + "\n", "utf-8")


@click.command()
@click.option("--network", "names", multiple=True, type=click.Choice(list(PLANS)), help="[both]")
@click.option("--validation", default=800, show_default=True, help="Validation scenes.")
@click.option("--threads", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the first weights and the order.")
def main(names: tuple[NetworkName, ...], validation: int, threads: int, seed: int) -> None:
    """Train, fold, write and measure."""
    torch.set_num_threads(threads)
    DATA.mkdir(exist_ok=True)
    write_examples(DATA)
    kinds: tuple[Marks, ...] = ("random", "label", "none")
    unseen = {marks: draw(validation, VALIDATION_SEED, marks, threads) for marks in kinds}
    for name in names or tuple(PLANS):
        plan = PLANS[name]
        began = time.perf_counter()
        torch.manual_seed(seed)
        scenes = draw(plan.scenes, TRAINING_SEED, plan.marks, threads)
        drawn = time.perf_counter()
        model = build(normalised=True)
        fit(model, scenes, name=name, epochs=plan.epochs)
        write(DATA / f"{name}.npz", fold(model))
        ended = time.perf_counter()
        click.echo(f"{name}: drawn in {drawn - began:.0f} s, trained in {ended - drawn:.0f} s")
        for figure, value in measure(name, unseen).items():
            click.echo(f"{name}: {figure}: {100 * value:.1f} %")


if __name__ == "__main__":
    main()
