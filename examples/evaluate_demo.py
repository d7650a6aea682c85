"""Measure every method on a network of the demo's scenes, and put the table into docs/metrics.md.

    python examples/evaluate_demo.py
    python examples/evaluate_demo.py --network tokens --without rise,ss-cam,is-cam --workers 2

The first measures the demo's sound network, needs one of the frameworks, and takes about an hour on
two cores of a CPU; the second that of examples/token_network.py, by PyTorch, in half an hour. A
method that refuses the network is not in its table, and its reason is printed.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
from tqdm import tqdm

from gradcam_multi import METHODS, CamWarning, Explainer, GradcamError
from gradcam_multi.cam.evidence import Network
from gradcam_multi.demo import VALIDATION_SEED, Scene, as_inputs, draw_scenes, load_network
from gradcam_multi.metrics import METRICS, RANDOM, Evaluation, Evaluator
from gradcam_multi.plugins import installed

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"
MARKERS = "<!-- measured, {}: begin -->\n", "<!-- measured, {}: end -->\n"
MEASURED = ("pointing-game", "energy", "deletion", "insertion", "average-drop")
BATCH = 25
# The numbers of masks a map, or a channel, where the methods' own would take hours.
SAMPLES = {"rise": 500, "ss-cam": 3, "is-cam": 3}  # instead of 4000, 35 and 10


@click.command()
@click.option("--network", type=click.Choice(get_args(Network)), default="sound", show_default=True)
@click.option("--scenes", default=500, show_default=True, help="Scenes to measure on.")
@click.option("--without", default="", help="Methods to leave out, with commas between.")
@click.option("--backend", default="onnx", show_default=True, help="Framework of the sound one.")
@click.option("--workers", default=1, show_default=True, help="Methods measured at a time.")
@click.option("--write/--no-write", default=True, help="Put the table into docs/metrics.md.")
def main(
    network: Network, scenes: int, without: str, backend: str, workers: int, write: bool
) -> None:
    """Draw scenes with their masks, evaluate, and print the table."""
    model = network_named(network, backend)
    asked = [name for name in METHODS if name not in without.split(",")]
    methods = [name for name in asked if admits(model, name)]
    job = partial(evaluated, network, backend, scenes)
    # Frameworks have threads, which no fork of a process has.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = pool.map(job, methods, (name == methods[0] for name in methods))
        results = list(tqdm(jobs, total=len(methods), unit="method"))
    values = {name: row for found in results for name, row in found.values.items()}
    order = [*methods, RANDOM]
    found = replace(results[0], values={name: values[name] for name in order})
    text = table(found)
    click.echo(text)
    if write:
        begin, end = (marker.format(network) for marker in MARKERS)
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
        _, _, after = rest.partition(end)
        DOCUMENT.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def network_named(name: Network, backend: str) -> Any:
    """Build the demo's sound network by a framework, or load that of tokens, which is PyTorch's."""
    if name == "tokens":
        from token_network import load_token_network  # the other needs no PyTorch

        return load_token_network()
    return installed().build(load_network("sound"), backend)


def admits(model: Any, method: str) -> bool:
    """Whether a network can be explained by a method, by trying."""
    explainer = Explainer(model, method=method, samples=SAMPLES.get(method))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CamWarning)  # a flat map is a map
            explainer(as_given(explainer, draw_scenes(1, seed=VALIDATION_SEED)))
    except GradcamError as error:
        click.echo(f"{method}: {error}", err=True)
        return False
    return True


def evaluated(network: Network, backend: str, scenes: int, method: str, lots: bool) -> Evaluation:
    """Measure a method, and maps by lot where these are asked for."""
    evaluator = Evaluator(
        network_named(network, backend), methods=[method], metrics=MEASURED, masks=True,
        samples=SAMPLES.get(method), random=lots,
    )  # fmt: skip
    for start in range(0, scenes, BATCH):
        count = min(BATCH, scenes - start)
        drawn = draw_scenes(count, seed=VALIDATION_SEED, marks="random", start=start)
        masks = np.stack([scene.mask for scene in drawn])
        evaluator.add(as_given(evaluator.explainers[method], drawn), masks=masks)
    return evaluator.result()


def as_given(explainer: Explainer, scenes: list[Scene]) -> np.ndarray:
    """Return scenes as the explainer's framework lays them out."""
    inputs = as_inputs(scenes)
    return np.moveaxis(inputs, 1, -1) if explainer.model.backend == "tensorflow" else inputs


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
    return "\n".join(lines)


def not_better(found: Evaluation, than: str) -> str:
    """Say which methods do not beat a baseline by two standard errors of the paired difference."""
    poor: dict[str, list[str]] = {}
    for name in found.metrics:
        sign = 1 if METRICS[name].better == "higher" else -1
        for method in found.methods:
            gain = sign * (found.values[method][name] - found.values[than][name])
            error = gain.std(ddof=1) / np.sqrt(len(gain))
            if method not in (RANDOM, than) and not gain.mean() > 2 * error:
                poor.setdefault(name, []).append(f"`{method}`")
    baseline = "maps by lot" if than == RANDOM else f"`{than}`"
    lines = [f"Not better than {baseline} by two standard errors:{'' if poor else ' none.'}", ""]
    lines += [f"- in {name}: {', '.join(methods)}" for name, methods in poor.items()]
    return "\n".join(lines) + "\n"


def _largest_error(found: Evaluation) -> float:
    return max(found.error(method, name) for method in found.methods for name in found.metrics)


if __name__ == "__main__":
    main()
