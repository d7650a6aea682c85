"""Measure every method on the demo's sound network, and put the table into docs/metrics.md.

    python examples/evaluate_demo.py

needs one of the frameworks, and takes minutes on a CPU.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from gradcam_multi import METHODS, metrics
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes, load_network
from gradcam_multi.metrics import METRICS, RANDOM, Evaluation, Evaluator
from gradcam_multi.plugins import installed

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
MEASURED = ("pointing-game", "energy", "deletion", "insertion", "average-drop")
BATCH = 25
CASCADED = 50  # scenes for the weight randomisation


@click.command()
@click.option("--scenes", default=500, show_default=True, help="Scenes to measure on.")
@click.option("--backend", default="onnx", show_default=True, help="Framework to measure with.")
@click.option("--write/--no-write", default=True, help="Put the table into docs/metrics.md.")
def main(scenes: int, backend: str, write: bool) -> None:
    """Draw scenes with their masks, evaluate, and print the table."""
    model = installed().build(load_network("sound"), backend)
    layout = (0, 2, 3, 1) if backend == "tensorflow" else (0, 1, 2, 3)
    evaluator = Evaluator(model, metrics=MEASURED, masks=True, backend=backend)
    with tqdm(total=scenes * evaluator.rows, unit="map") as bar:
        for start in range(0, scenes, BATCH):
            count = min(BATCH, scenes - start)
            drawn = draw_scenes(count, seed=VALIDATION_SEED, marks="random", start=start)
            evaluator.add(
                as_inputs(drawn).transpose(layout),
                masks=np.stack([scene.mask for scene in drawn]),
                tick=lambda count=count: bar.update(count),
            )
    found = evaluator.result()
    few = as_inputs(draw_scenes(CASCADED, seed=VALIDATION_SEED, marks="random")).transpose(layout)
    cascades = {name: metrics.cascade(model, few, method=name, backend=backend) for name in METHODS}
    text = table(found, cascades)
    click.echo(text)
    if write:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")


def table(found: Evaluation, cascades: dict[str, metrics.Cascade]) -> str:
    """Return the table as Markdown; the best methods of each metric are bold."""
    arrows = {"higher": "up", "lower": "down"}
    heads = [f"{name} ({arrows[METRICS[name].better]})" for name in found.metrics]
    lines = [
        f"{len(found)} scenes, {found.backend}, layer `{found.layer}`; the standard error of no "
        f"mean is above {_largest_error(found):.3f}.",
        "",
        f"| method | {' | '.join(heads)} | weights redrawn: top, all (down) |",
        f"|---|{'---:|' * (len(heads) + 1)}",
    ]
    for method in found.methods:
        cells = [
            f"**{found.mean(method, name):.3f}**"
            if method in found.best(name)
            else f"{found.mean(method, name):.3f}"
            for name in found.metrics
        ]
        cascade = cascades.get(method)
        redrawn = "-" if cascade is None else f"{cascade.mean[0]:.2f}, {cascade.mean[-1]:.2f}"
        if cascade is not None and not cascade.passed():
            redrawn += " (fails)"
        name = "maps by lot" if method == RANDOM else f"`{method}`"
        lines.append(f"| {name} | {' | '.join(cells)} | {redrawn} |")
    return "\n".join(lines) + "\n"


def _largest_error(found: Evaluation) -> float:
    return max(found.error(method, name) for method in found.methods for name in found.metrics)


if __name__ == "__main__":
    main()
