"""Measure every method on the demo's sound network, and put the table into docs/metrics.md.

    python examples/evaluate_demo.py

needs one of the frameworks, and takes about an hour on two cores of a CPU.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from tqdm import tqdm

from gradcam_multi import METHODS
from gradcam_multi.cam.evidence import evidence
from gradcam_multi.demo import VALIDATION_SEED, as_inputs, draw_scenes, load_network
from gradcam_multi.metrics import METRICS, RANDOM, Evaluation, Evaluator
from gradcam_multi.plugins import installed

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
MEASURED = ("pointing-game", "energy", "deletion", "insertion", "average-drop")
BATCH = 25
# The numbers of masks a map, or a channel, where the methods' own would take hours.
SAMPLES = {"rise": 500, "ss-cam": 3, "is-cam": 3}  # instead of 4000, 35 and 10


@click.command()
@click.option("--scenes", default=500, show_default=True, help="Scenes to measure on.")
@click.option("--backend", default="onnx", show_default=True, help="Framework to measure with.")
@click.option("--write/--no-write", default=True, help="Put the table into docs/metrics.md.")
def main(scenes: int, backend: str, write: bool) -> None:
    """Draw scenes with their masks, evaluate, and print the table."""
    model = installed().build(load_network("sound"), backend)
    layout = (0, 2, 3, 1) if backend == "tensorflow" else (0, 1, 2, 3)
    groups: dict[int | None, list[str]] = {}
    admitted = [name for name in METHODS if evidence()[name] is not None]  # by this network
    for name in admitted:
        groups.setdefault(SAMPLES.get(name), []).append(name)
    evaluators = [
        Evaluator(
            model, methods=names, metrics=MEASURED, masks=True, backend=backend, samples=samples,
            random=samples is None,
        )
        for samples, names in groups.items()
    ]  # fmt: skip
    with tqdm(total=scenes * (len(admitted) + 1), unit="map") as bar:
        for start in range(0, scenes, BATCH):
            count = min(BATCH, scenes - start)
            drawn = draw_scenes(count, seed=VALIDATION_SEED, marks="random", start=start)
            for evaluator in evaluators:
                evaluator.add(
                    as_inputs(drawn).transpose(layout),
                    masks=np.stack([scene.mask for scene in drawn]),
                    tick=lambda count=count: bar.update(count),
                )
    results = [evaluator.result() for evaluator in evaluators]
    values = {name: row for found in results for name, row in found.values.items()}
    order = [*admitted, RANDOM]
    found = replace(results[0], values={name: values[name] for name in order})
    text = table(found)
    click.echo(text)
    if write:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")


def table(found: Evaluation) -> str:
    """Return the table as Markdown, the best methods of each metric bold, and who beats no lot."""
    arrows = {"higher": "up", "lower": "down"}
    heads = [f"{name} ({arrows[METRICS[name].better]})" for name in found.metrics]
    lines = [
        f"{len(found)} scenes, {found.backend}, layer `{found.layer}`; the standard error of no "
        f"mean is above {_largest_error(found):.3f}.",
        "",
        f"| method | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]
    for method in found.methods:
        cells = [
            f"**{found.mean(method, name):.3f}**"
            if method in found.best(name)
            else f"{found.mean(method, name):.3f}"
            for name in found.metrics
        ]
        name = "maps by lot" if method == RANDOM else f"`{method}`"
        name += f", {SAMPLES[method]} masks" if method in SAMPLES else ""
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *(not_better(found, than) for than in (RANDOM, "random-cam"))]
    return "\n".join(lines) + "\n"


def not_better(found: Evaluation, than: str) -> str:
    """Say which methods do not beat a baseline by two standard errors of the paired difference."""
    poor = []
    for name in found.metrics:
        sign = 1 if METRICS[name].better == "higher" else -1
        for method in found.methods:
            gain = sign * (found.values[method][name] - found.values[than][name])
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            if method not in (RANDOM, than) and not gain.mean() > 2 * error:
                poor.append(f"`{method}` in {name}")
    baseline = "maps by lot" if than == RANDOM else f"`{than}`"
    return f"- Not better than {baseline} by two standard errors: {', '.join(poor) or 'none'}."


def _largest_error(found: Evaluation) -> float:
    return max(found.error(method, name) for method in found.methods for name in found.metrics)


if __name__ == "__main__":
    main()
