"""Measure whether each method's map depends on the weights and on the class, on the demo's sound
network, and store it where `gradcam methods` and docs/methods.md take it from.

    python examples/measure_sanity.py
    python examples/measure_sanity.py --methods gradcam,rise

The second measures some methods only, and keeps what is stored of the others. Needs ONNX Runtime
or PyTorch, and takes minutes on a CPU.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from gradcam_multi import METHODS, CamWarning, Explainer, GradcamError, metrics
from gradcam_multi.cam.evidence import FILE, Evidence, evidence
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes, load_network
from gradcam_multi.metrics.sanity import similarity
from gradcam_multi.plugins import installed

ROOT = Path(__file__).parents[1]
STORED = ROOT / "gradcam_multi" / "cam" / FILE
DOCUMENT = ROOT / "docs" / "methods.md"
BEGIN, END = "<!-- sanity: begin -->\n", "<!-- sanity: end -->\n"
SAMPLES = {"rise": 1000, "ss-cam": 4}  # instead of 4000 and 35: too many forward passes here


@click.command()
@click.option("--methods", help="Names, with commas between.  [default: all]")
@click.option("--scenes", default=16, show_default=True, help="Scenes to measure on.")
@click.option("--redraws", default=3, show_default=True, help="Networks of redrawn weights.")
@click.option("--backend", default="onnx", show_default=True, help="Framework to measure with.")
def main(methods: str | None, scenes: int, redraws: int, backend: str) -> None:
    """Measure, store the figures, and put the table into docs/methods.md."""
    asked = methods.split(",") if methods else list(METHODS)
    known = evidence() if STORED.exists() else {}
    model = installed().build(load_network("sound"), backend)
    names = metrics.weighted_layers(model)
    redrawn = [metrics.shuffled(model, names, seed=seed) for seed in range(redraws)]
    inputs = as_inputs(draw_scenes(scenes, seed=VALIDATION_SEED, marks="random"))
    found: dict[str, Evidence | None] = {}
    for name in tqdm(METHODS):
        if name in asked:
            found[name] = measured(name, model, redrawn, inputs, backend)
        elif name in known:
            found[name] = known[name]
    rows = {name: None if e is None else vars(e) for name, e in found.items()}
    lines = [f'  "{name}": {json.dumps(row)}' for name, row in rows.items()]
    STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}{table(found)}{END}{after}", encoding="utf-8")
    click.echo(table(found))


def measured(
    name: str, model: object, redrawn: list[object], inputs: np.ndarray, backend: str
) -> Evidence | None:
    """Return a method's evidence; None where it refuses the demo's network."""
    options = {"method": name, "backend": backend, "samples": SAMPLES.get(name)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)  # a flat map is a finding here
        try:
            own = Explainer(model, **options)(inputs)
        except GradcamError as error:
            click.echo(f"{name}: {error}", err=True)
            return None
        alike = [
            similarity(own.cam, Explainer(other, **options)(inputs, list(own.targets)).cam)
            for other in redrawn
        ]
        classes = metrics.random_logit(model, inputs, **options)
    return Evidence(round(float(np.mean(alike)), 2), round(float(classes.mean()), 2))


def table(found: dict[str, Evidence | None]) -> str:
    """Return the table as Markdown."""
    lines = ["| method | weights redrawn | another class | blind to |", "|---|---:|---:|---|"]
    for name, each in found.items():
        cells = ("-", "-", "not measured")
        if each is not None:
            blind = ", ".join(each.blind_to) or "-"
            cells = (f"{each.weights:.2f}", f"{each.classes:.2f}", blind)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
