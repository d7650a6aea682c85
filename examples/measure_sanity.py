"""Measure whether each method's map depends on the weights and on the class, on the demo's sound
network, or on that of tokens for what the sound one does not admit, and store it where `gradcam
methods` and docs/methods.md take it from.

    python examples/measure_sanity.py
    python examples/measure_sanity.py --methods gradcam,rise

The second measures some methods only, and keeps what is stored of the others. Needs ONNX Runtime
or PyTorch, PyTorch for the tokens, and takes minutes on a CPU.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
from evaluate_demo import network_named
from tqdm import tqdm

from gradcam_multi import METHODS, GradcamError, metrics
from gradcam_multi.cam.evidence import FILE, Evidence, Network, evidence
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes

ROOT = Path(__file__).parents[1]
STORED = ROOT / "gradcam_multi" / "cam" / FILE
DOCUMENT = ROOT / "docs" / "methods.md"
BEGIN, END = "<!-- sanity: begin -->\n", "<!-- sanity: end -->\n"
SAMPLES = {"rise": 1000, "ss-cam": 4}  # instead of 4000 and 35: too many forward passes here


@click.command()
@click.option("--methods", help="Names, with commas between.  [default: all]")
@click.option("--scenes", default=16, show_default=True, help="Scenes to measure on.")
@click.option("--redraws", default=3, show_default=True, help="Networks of redrawn weights.")
@click.option("--backend", default="onnx", show_default=True, help="Framework of the sound one.")
def main(methods: str | None, scenes: int, redraws: int, backend: str) -> None:
    """Measure, store the figures, and put the table into docs/methods.md."""
    asked = methods.split(",") if methods else list(METHODS)
    known = evidence() if STORED.exists() else {}
    inputs = as_inputs(draw_scenes(scenes, seed=VALIDATION_SEED, marks="random"))
    found: dict[str, Evidence] = {}
    for name in tqdm(METHODS):
        if name in asked:
            found[name] = measured(name, inputs, redraws, backend)
        elif name in known:
            found[name] = known[name]
    lines = [f'  "{name}": {json.dumps(vars(each))}' for name, each in found.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}{table(found)}{END}{after}", encoding="utf-8")
    click.echo(table(found))


def measured(name: str, inputs: np.ndarray, redraws: int, backend: str) -> Evidence:
    """Return a method's evidence, on the first network that admits it."""
    try:
        return alike(name, inputs, "sound", networks("sound", redraws, backend))
    except GradcamError as error:
        click.echo(f"{name}, on the network of tokens: {error}", err=True)
        return alike(name, inputs, "tokens", networks("tokens", redraws, backend))


@cache
def networks(name: Network, redraws: int, backend: str) -> list[Any]:
    """Return a network, and copies of it with all weights redrawn."""
    model = network_named(name, backend)
    layers = metrics.weighted_layers(model, as_inputs(draw_scenes(1, seed=VALIDATION_SEED)))
    return [model, *(metrics.shuffled(model, layers, seed=seed) for seed in range(redraws))]


def alike(name: str, inputs: np.ndarray, network: Network, models: list[Any]) -> Evidence:
    """Return how alike a method's maps stay; raise GradcamError where the network is refused."""
    model, *redrawn = models
    options = {"method": name, "samples": SAMPLES.get(name)}
    weights = [
        metrics.model_similarity(model, other, inputs, **options).mean() for other in redrawn
    ]
    classes = metrics.random_logit(model, inputs, **options).mean()
    return Evidence(round(float(np.mean(weights)), 2), round(float(classes), 2), network)


def table(found: dict[str, Evidence]) -> str:
    """Return the table as Markdown."""
    lines = ["| method | weights redrawn | another class | blind to |", "|---|---:|---:|---|"]
    for name, each in found.items():
        blind = ", ".join(each.blind_to) or "-"
        lines.append(f"| {name} | {each.weights:.2f} | {each.classes:.2f} | {blind} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
